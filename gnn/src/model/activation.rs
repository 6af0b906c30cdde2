//! Activations, as PyTorch computes them.

use super::config::Activation;

impl Activation {
    /// Each number of a row.
    #[inline(always)]
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Relu => each(values, |x| if x > 0.0 { x } else { 0.0 }),
            Self::LeakyRelu => each(values, |x| if x > 0.0 { x } else { 0.01 * x }),
            Self::Elu => each(values, |x| if x > 0.0 { x } else { x.exp_m1() }),
            Self::Gelu => each(values, gelu),
            Self::Silu => each(values, |x| x / (1.0 + (-x).exp())),
            Self::Sigmoid => each(values, |x| 1.0 / (1.0 + (-x).exp())),
            Self::Tanh => each(values, f32::tanh),
        }
    }
}

#[inline(always)]
fn each(values: &mut [f32], function: impl Fn(f32) -> f32) {
    values.iter_mut().for_each(|value| *value = function(*value));
}

fn gelu(x: f32) -> f32 {
    let x = f64::from(x);
    (0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))) as f32
}

/// Abramowitz and Stegun, 7.1.26: wrong by 1.5e-7 at most.
fn erf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let series = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let sum = series.iter().fold(0.0, |sum, factor| (sum + factor) * t);
    (1.0 - sum * (-x * x).exp()).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let cases = [
            (Activation::None, [-1.0, 2.0]),
            (Activation::Relu, [0.0, 2.0]),
            (Activation::LeakyRelu, [-0.01, 2.0]),
            (Activation::Elu, [-0.632_120_55, 2.0]),
            (Activation::Gelu, [-0.158_655_26, 1.954_499_7]),
            (Activation::Silu, [-0.268_941_43, 1.761_594_2]),
            (Activation::Sigmoid, [0.268_941_43, 0.880_797]),
            (Activation::Tanh, [-0.761_594_2, 0.964_027_6]),
        ];
        for (activation, expected) in cases {
            let mut values = [-1.0f32, 2.0];
            activation.apply(&mut values);
            for (value, expected) in values.iter().zip(expected) {
                assert!((value - expected).abs() < 1e-6, "{activation:?}: {value} for {expected}");
            }
        }
    }
}
