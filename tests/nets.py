"""Nets and data of the tests, and the optimizers that some are trained with."""

import keras
import numpy as np
from conftest import BACKEND
from keras import layers, ops
from oracle import to_numpy

import keras_sam

DECAY = 1 / 64
# For a model that others are held against, or that is not about how it is compiled: TensorFlow alone traces a step for
# longer than it takes to run some.
EAGERLY = {"run_eagerly": True} if BACKEND == "tensorflow" else {}


def data(rows=32, columns=3, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(rows, columns)), random.normal(size=(rows, 2))


def tanh_net(cls=keras_sam.SAMModel):
    """The net of reference.py, in float64."""
    l2 = keras.regularizers.L2(DECAY / 2)
    inputs = keras.Input((3,))
    hidden = layers.Dense(4, "tanh", kernel_regularizer=l2)(inputs)
    return cls(inputs, layers.Dense(2, kernel_regularizer=l2)(hidden))


def linear_net(cls, input_shape, num_classes, weight_decay=0.0, **options):
    """In the place of an experiment's network, where any will do."""
    inputs = keras.Input(input_shape)
    return cls(inputs, layers.Dense(num_classes)(layers.BatchNormalization()(layers.Flatten()(inputs))))


def weights_of(model):
    return [to_numpy(v) for v in model.trainable_variables]


def conv_net(cls):
    """BatchNormalization, Dropout, a regularizer and `add_loss` in one."""

    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(0.01 * ops.mean(x**2))
            return x

    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, kernel_regularizer="l2", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = Penalty()(layers.Dropout(0.3)(x))
    return cls(inputs, layers.Dense(5)(layers.Flatten()(x)))


def text_net(cls):
    inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(20, 4, mask_zero=True)(inputs)
    x = layers.LSTM(4, recurrent_dropout=0.3, dropout=0.2)(x)
    return cls(inputs, layers.Dense(1)(x))


def embedding_net(cls):
    """An embedding alone in front of the loss: its gradient is sparse, with rows that repeat."""
    inputs = keras.Input((7,), dtype="int32")
    return cls(inputs, ops.mean(layers.Embedding(20, 3)(inputs), axis=(1, 2))[:, None])


def two_outputs(cls):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    x = layers.Dense(4, "tanh", activity_regularizer="l2")(layers.Concatenate()([a, b]))
    return cls({"a": a, "b": b}, {"c": layers.Dense(1, name="c")(x), "d": layers.Dense(2, name="d")(x)})


def partly_frozen(cls):
    inputs = keras.Input((3,))
    frozen = layers.Dense(4, trainable=False)
    return cls(inputs, layers.Dense(2)(layers.BatchNormalization()(frozen(inputs))))


def with_unused_output(cls):
    """Two losses are possible and one is given: the other head has no gradient."""
    inputs = keras.Input((3,))
    x = layers.Dense(4, "relu")(inputs)
    return cls(inputs, [layers.Dense(2)(x), layers.Dense(1)(x)])


def lora_net(cls):
    inputs = keras.Input((3,))
    dense = layers.Dense(4, "tanh")
    x = dense(inputs)
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(0.1 * np.ones(dense.lora_kernel_b.shape))
    return cls(inputs, layers.Dense(2)(x))


def group_norm_net(cls):
    inputs = keras.Input((6, 6, 3))
    x = layers.SeparableConv2D(4, 3, depthwise_regularizer="l1")(inputs)
    x = layers.GroupNormalization(2)(x)
    return cls(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def images():
    random = np.random.default_rng(0)
    return random.normal(size=(24, 6, 6, 3)).astype("float32"), random.integers(0, 5, 24)


def words():
    random = np.random.default_rng(0)
    return random.integers(0, 20, (24, 7)), random.normal(size=(24, 1)).astype("float32")


def table():
    x, y = data(24)
    return x.astype("float32"), y.astype("float32")


def two_tables():
    x, y = table()
    return {"a": x, "b": y}, {"c": x[:, :1], "d": y}


class ReturnsOne(keras_sam.SAMModel):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


class ReturnsMore(ReturnsOne):
    """And what has no rows beside it, to be trained by the loss `{"y": …}`."""

    def call(self, x):
        y = self.dense(x)
        return {"y": y, "none": None, "mean": ops.mean(y)}


CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
NETS = {
    "conv": (conv_net, images, {"loss": CROSSENTROPY}),
    "text": (text_net, words, {"loss": "mse"}),
    "embedding": (embedding_net, words, {"loss": "mse"}),
    "dict inputs, two losses": (
        two_outputs,
        two_tables,
        {"loss": {"c": "mse", "d": "mae"}, "loss_weights": {"c": 2.0, "d": 0.5}},
    ),
    "frozen": (partly_frozen, table, {"loss": "mse"}),
    "no gradient": (with_unused_output, lambda: (table()[0], [table()[1]] * 2), {"loss": ["mse", None]}),
    "lora": (lora_net, table, {"loss": "mse"}),
    "separable": (group_norm_net, images, {"loss": CROSSENTROPY}),
}
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "clipping": lambda: keras.optimizers.SGD(0.5, global_clipnorm=0.3),
    "weight decay": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, clipnorm=0.5),
    "ema": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=2),
    "accumulation": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
}


def masked(sam):
    """A compiled net with an output that is masked where a row has no word, and right elsewhere alone; and its data."""
    x = (np.arange(4) <= np.arange(9)[:, None] % 3).astype("int32")
    inputs = keras.Input((4,), dtype="int32")
    words = layers.Dense(2, kernel_initializer="zeros")(layers.Embedding(3, 2, mask_zero=True)(inputs))
    whole = layers.Dense(2, kernel_initializer="zeros")(layers.Reshape((4, 1))(inputs))
    model = keras_sam.SAMModel(inputs, [whole, words])
    model.layers[-1].bias.assign([0.0, 1.0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), [loss, loss], metrics=[[], ["accuracy"]], sam=sam)
    return model, x, [0 * x, x]
