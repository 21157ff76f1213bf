"""From whatever asks to accepted jobs: requests, orders, manifests, templates, uploads, submission."""
