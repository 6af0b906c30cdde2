//! `model.safetensors`: tensors by name, each taken once, with the shape it has to have.

use crate::Error;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;

/// The tensors of a file that are not taken yet.
pub(crate) struct Weights {
    prefix: String,
    tensors: BTreeMap<String, Tensor>,
}

struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Weights {
    /// From a file's bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| {
            let problem = match pickle(bytes) {
                Some(kind) => format!("is {kind}, which can run code when it is read; {EXPORT}"),
                None => format!("is no whole safetensors file ({error}); {EXPORT}"),
            };
            Error::file(super::WEIGHTS.as_ref(), problem)
        })?;
        let names = file.names();
        let prefix = PREFIXES
            .iter()
            .find(|prefix| names.iter().any(|name| name.strip_prefix(**prefix).is_some_and(begins_a_layer)))
            .ok_or_else(|| {
                let some = names.iter().take(4).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                let found = if some.is_empty() { "no tensor at all".to_owned() } else { format!("only such as {some}") };
                Error::tensor("convs.0.…", format!("is missing: there is {found}; export `model.state_dict()` of a PyTorch Geometric model"))
            })?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let Some(short) = name.strip_prefix(prefix) else { continue };
            if short.ends_with(".num_batches_tracked") {
                continue;
            }
            tensors.insert(
                short.to_owned(),
                Tensor { shape: view.shape().to_vec(), values: numbers(name, &view)? },
            );
        }
        Ok(Self { prefix: (*prefix).to_owned(), tensors })
    }

    /// Takes a tensor of this shape; a number in it counts for one dimension.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize], why: &str) -> Result<Vec<f32>, Error> {
        let full = || format!("{}{name}", self.prefix);
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(Error::tensor(full(), format!("is missing: config.json says {why}")));
        };
        if tensor.shape != shape {
            return Err(Error::tensor(
                full(),
                format!("has the shape {:?}, but config.json ({why}) asks for {shape:?}", tensor.shape),
            ));
        }
        Ok(tensor.values)
    }

    /// Takes a tensor under the first of these names that there is.
    pub(crate) fn take_any(
        &mut self,
        names: &[String],
        shape: &[usize],
        why: &str,
    ) -> Result<Vec<f32>, Error> {
        let name =
            names.iter().find(|name| self.has(name)).or_else(|| names.first()).cloned().unwrap_or_default();
        self.take(&name, shape, why)
    }

    /// How many numbers there are to take.
    pub(crate) fn parameters(&self) -> usize {
        self.tensors.values().map(|tensor| tensor.values.len()).sum()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// An error if a tensor was not taken: the file holds another model than the configuration says.
    pub(crate) fn end(self) -> Result<(), Error> {
        let Some((name, tensor)) = self.tensors.first_key_value() else { return Ok(()) };
        let more = match self.tensors.len() - 1 {
            0 => String::new(),
            more => format!(" ({more} more are left over, too)"),
        };
        let problem = format!(
            "of the shape {:?} has no place in the model that config.json describes{more}",
            tensor.shape
        );
        Err(Error::tensor(format!("{}{name}", self.prefix), problem))
    }
}

fn begins_a_layer(name: &str) -> bool {
    name.starts_with("convs.0.") || name.starts_with("conv1.")
}

fn numbers(name: &str, view: &TensorView) -> Result<Vec<f32>, Error> {
    let data = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F64 => data.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        Dtype::BF16 => data
            .as_chunks::<2>()
            .0
            .iter()
            .map(|bytes| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16))
            .collect(),
        other => {
            let problem =
                format!("holds {other:?}: only F32, F64 and BF16 can be used; convert it with `.float()`");
            return Err(Error::tensor(name, problem));
        }
    };
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(Error::tensor(
            name,
            format!("holds {} at position {at}: train or export the model again", values[at]),
        )),
        None => Ok(values),
    }
}

/// What a file is that is no safetensors file; one of those may well begin in the same way.
fn pickle(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"PK\x03\x04") {
        return Some("a zip file as `torch.save` writes it");
    }
    (bytes.first() == Some(&0x80) && bytes.get(1).is_some_and(|version| *version <= 5))
        .then_some("a Python pickle")
}

const PREFIXES: [&str; 7] = ["", "model.", "module.", "encoder.", "module.model.", "model.encoder.", "gnn."];

/// What to do with a file of another kind.
pub(crate) const EXPORT: &str = "write it with: `from safetensors.torch import save_file; \
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, 'model.safetensors')`";
