//! What can go wrong, in words for the user who called.

use thiserror::Error;

/// Why a call failed. The text names the argument, key, file or tensor, and what to do.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum Error {
    /// An argument that cannot be used.
    #[error("`{name}`: {problem}")]
    Argument {
        /// The argument's name.
        name: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A key of a model's `config.json` that cannot be used.
    #[error("config.json, key `{key}`: {problem}")]
    Config {
        /// The key.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A tensor of a model that cannot be used.
    #[error("model.safetensors, tensor `{tensor}`: {problem}")]
    Tensor {
        /// The tensor's name in the file.
        tensor: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A file that cannot be read or written.
    #[error("{file}: {problem}")]
    File {
        /// The file, as it was named.
        file: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The caller cancelled, or its deadline passed.
    #[error("the computation was cancelled before it was complete")]
    Cancelled,
    /// The tensor library failed: memory, or a defect.
    #[error("the tensor library failed: {0}")]
    Tensors(String),
}

impl Error {
    /// An argument that cannot be used.
    pub(crate) fn argument(name: &'static str, problem: impl Into<String>) -> Self {
        Self::Argument { name, problem: problem.into() }
    }

    /// A key of `config.json` that cannot be used.
    pub(crate) fn config(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { key: key.into(), problem: problem.into() }
    }

    /// A tensor that cannot be used.
    pub(crate) fn tensor(tensor: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Tensor { tensor: tensor.into(), problem: problem.into() }
    }

    /// A file that cannot be used.
    pub(crate) fn file(file: &std::path::Path, problem: impl Into<String>) -> Self {
        Self::File { file: file.display().to_string(), problem: problem.into() }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Tensors(error.to_string())
    }
}
