"""What this machine is: Jetson module, GPU and driver, installed libraries."""
