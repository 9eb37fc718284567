"""Rendered clothed people with BODY_25 keypoints, to train a person detector (see README)."""
