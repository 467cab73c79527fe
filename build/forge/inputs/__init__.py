"""What a build is made from, at its pins: hub, mirror, stand-in."""
