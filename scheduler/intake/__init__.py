"""Accept orders from every way in: requests, manifests, templates, uploads, admission, submission."""
