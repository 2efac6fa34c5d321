"""Training on other machines: what Slurm, Kubernetes and SkyPilot are given to start it."""
