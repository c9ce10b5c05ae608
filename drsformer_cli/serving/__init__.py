"""The web service: a thread with the network, and the HTTP interface in front of it."""
