"""Convolutional networks trained on CIFAR-10 with the losses of xentjax."""
