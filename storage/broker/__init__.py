"""Messages on Redis: the Celery application, its queues (one a model) and its tickets.

A *ticket* says "there is work for this model" and nothing else; the rows say which. So losing, doubling or delaying
tickets loses nothing, and there are never more than a window of them whatever the backlog.
"""
