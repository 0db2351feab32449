"""Ray Serve under load: replicas that come and go, a model that is replaced, one that is killed."""
