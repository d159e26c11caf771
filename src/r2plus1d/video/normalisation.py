"""Mean and standard deviation of the channels that networks are trained with: RGB, pixels from 0 to 255."""

IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # MMAction's
KINETICS = (110.2008, 100.63983, 95.99475), (58.14765, 56.46975, 55.332195)  # 255 times torchvision's
