"""Many φ on one device, and the HTTP front."""
