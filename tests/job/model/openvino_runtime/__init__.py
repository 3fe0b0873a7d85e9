"""Tests of OpenVINO on CPUs."""
