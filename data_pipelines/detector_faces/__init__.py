"""Random people for training a face landmark and parsing network: shards of rendered busts."""
