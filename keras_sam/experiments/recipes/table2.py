"""Table 2: ImageNet from scratch. SAM goes on improving with epochs, where plain training overfits.

Both methods have equal epochs. Batches of 4096 on 32 cores make m = 128.
"""

from keras_sam import SAM
from keras_sam.experiments.recipes import Method, Row

TITLE = "ImageNet"

# Top-1 and top-5 error of SAM, then of plain training.
PUBLISHED = {
    ("resnet-50", 100): ("22.5 ± 0.1", "6.28 ± 0.08", "22.9 ± 0.1", "6.62 ± 0.11"),
    ("resnet-50", 200): ("21.4 ± 0.1", "5.82 ± 0.03", "22.3 ± 0.1", "6.37 ± 0.04"),
    ("resnet-50", 400): ("20.9 ± 0.1", "5.51 ± 0.03", "22.3 ± 0.1", "6.40 ± 0.06"),
    ("resnet-101", 100): ("20.2 ± 0.1", "5.12 ± 0.03", "21.2 ± 0.1", "5.66 ± 0.05"),
    ("resnet-101", 200): ("19.4 ± 0.1", "4.76 ± 0.03", "20.9 ± 0.1", "5.66 ± 0.04"),
    ("resnet-101", 400): ("19.0 ± <0.01", "4.65 ± 0.05", "22.3 ± 0.1", "6.41 ± 0.06"),
    ("resnet-152", 100): ("19.2 ± <0.01", "4.69 ± 0.04", "20.4 ± <0.0", "5.39 ± 0.06"),
    ("resnet-152", 200): ("18.5 ± 0.1", "4.37 ± 0.03", "20.3 ± 0.2", "5.39 ± 0.07"),
    ("resnet-152", 400): ("18.4 ± <0.01", "4.35 ± 0.04", "20.9 ± <0.0", "5.84 ± 0.07"),
}

ROWS = {
    f"{network}/{epochs}": Row(
        network=network,
        data="imagenet2012",
        augmentation="imagenet",
        image_size=224,
        epochs=epochs,
        batch_size=4096,
        learning_rate=1.0,
        weight_decay=1e-4,
        methods={"sam": Method(SAM(0.05, m=128)), "sgd": Method()},
        published={
            "sam": {"test_error": numbers[0], "top5_error": numbers[1]},
            "sgd": {"test_error": numbers[2], "top5_error": numbers[3]},
        },
    )
    for (network, epochs), numbers in PUBLISHED.items()
}
