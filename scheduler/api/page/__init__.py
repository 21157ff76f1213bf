"""The page: the farm as people see it in a browser, made of the API's own functions and answers."""
