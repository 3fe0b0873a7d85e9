"""Int8 for OpenVINO, with constant scales from calibration images."""
