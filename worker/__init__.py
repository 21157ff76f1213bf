"""Claim jobs, render them on a device, publish the pictures. No web framework, no scheduling."""
