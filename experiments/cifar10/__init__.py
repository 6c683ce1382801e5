"""A convolutional network trained on CIFAR-10 through xentjax.losses."""
