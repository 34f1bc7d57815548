"""Live cameras: devices, network cameras, and recordings that play a camera."""
