"""The doctor: examines from outside, through all proxies, whether a deployment carries events to browsers."""
