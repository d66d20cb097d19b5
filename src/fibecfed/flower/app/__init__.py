"""What Flower installs on a device: two files, which Flower loads by their own names."""
