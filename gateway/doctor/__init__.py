"""The doctor: whether a deployment carries events to browsers, seen from outside and through all its proxies."""
