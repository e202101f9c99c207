"""SAM in a training loop of your own, on TensorFlow: `python examples/custom_loop_tensorflow.py`.

A rule asks for the loss and its gradients at weights that it chooses, so a loop gives it a function of the weights,
which `model.stateless_call` is. No variable is perturbed: the optimizer applies the result where the weights still are.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import keras_sam


def main(epochs=10, rule=keras_sam.SAM(rho=0.05)):  # noqa: B008
    """Trains on scikit-learn's digits and returns the accuracy on the last 297 of them."""
    keras.utils.set_random_seed(0)
    images, labels = load_digits(return_X_y=True)
    images = images.astype("float32") / 16
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, "relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(10),
        ]
    )
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    # What FriendlySAM and LookSAM keep from step to step; of other rules nothing.
    kept = [[tf.Variable(tf.zeros_like(v.value)) for v in model.trainable_variables] for _ in rule.slots]

    @tf.function
    def train_step(x, y):
        states = []

        def value_and_grad(weights):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                before = [v.value for v in model.non_trainable_variables]
                logits, state = model.stateless_call(weights, before, x, training=True)
                loss = loss_of(y, logits)
            states.append(state)
            return loss, tape.gradient(loss, weights)

        variables = model.trainable_variables
        weights = [tf.convert_to_tensor(v.value) for v in variables]
        step = rule.step(optimizer.iterations, variables, [[tf.convert_to_tensor(v) for v in slot] for slot in kept])
        gradient, state = rule.gradient(value_and_grad, weights, step)
        tf.nest.map_structure(lambda variable, value: variable.assign(value), kept, list(state))
        optimizer.apply(gradient, variables)
        # BatchNormalization's statistics are those of the clean weights, at which the first call was made.
        for variable, value in zip(model.non_trainable_variables, states[0]):
            variable.assign(value)

    data = tf.data.Dataset.from_tensor_slices((images[:1500], labels[:1500])).shuffle(1500, seed=0).batch(50)
    for _ in range(epochs):
        for x, y in data:
            train_step(x, y)
    predicted = model.predict(images[1500:], verbose=0).argmax(axis=1)
    return float((predicted == labels[1500:]).mean())


if __name__ == "__main__":
    print(f"Test accuracy: {main():.3f}")
