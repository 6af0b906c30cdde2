//! Random numbers that depend on a key only: not on threads, order or what else is asked for.

/// SplitMix64 begun from a key.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of a seed and what it is drawn for.
    pub(crate) fn keyed(seed: u64, parts: &[u64]) -> Self {
        let mut random = Self(mix(seed ^ 0x5851_f42d_4c95_7f2d));
        for part in parts {
            random.0 = mix(random.0 ^ part.wrapping_mul(GOLDEN));
        }
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// Evenly from 0 to below 1.
    pub(crate) fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Evenly from 0 to below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// +1 and -1 with a probability of 1/6 each, else none.
    pub(crate) fn sparse_sign(&mut self) -> Option<f32> {
        match self.below(6) {
            0 => Some(1.0),
            1 => Some(-1.0),
            _ => None,
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
