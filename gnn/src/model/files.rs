//! From a folder, and to one.

use super::config::{Config, Limits};
use super::weights::{EXPORT, Weights};
use super::{CONFIG, Model, WEIGHTS, build};
use crate::Error;
use crate::accelerate::Resident;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

impl Model {
    /// From a folder with `model.safetensors` and `config.json`. Nothing in these files is trusted: each
    /// tensor has to be there with the shape that the configuration asks for, finite, and no other may be.
    ///
    /// # Errors
    /// If a file cannot be read or is not what it should be; the error names the tensor, key or file.
    pub fn load(folder: &Path, limits: &Limits) -> Result<Self, Error> {
        let name =
            folder.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
        let text = read(&folder.join(CONFIG), MAX_CONFIG)?;
        let text =
            String::from_utf8(text).map_err(|_| Error::file(&folder.join(CONFIG), "is not UTF-8 text"))?;
        let config = Config::parse(&text, limits)?;
        let file = folder.join(WEIGHTS);
        if !file.exists()
            && let Some(other) = pickled(folder)
        {
            let problem = format!(
                "is a PyTorch pickle, which can run code when it is read, and there is no {WEIGHTS}; {EXPORT}"
            );
            return Err(Error::file(&other, problem));
        }
        Self::from_parts(&name, config, read(&file, limits.max_bytes)?)
    }

    /// Writes its folder anew: complete or not at all. The folder's name becomes the model's.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
            return Err(Error::file(folder, "is no folder that a model can be saved to"));
        };
        fs::create_dir_all(parent).map_err(|error| unwritten(parent, &error))?;
        let aside = |what: &str| -> PathBuf {
            parent.join(format!(".{}.{}.{what}", name.to_string_lossy(), std::process::id()))
        };
        let (fresh, former) = (aside("new"), aside("old"));
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir(&fresh).map_err(|error| unwritten(&fresh, &error))?;
        let config = serde_json::to_string_pretty(&self.config)
            .map_err(|error| Error::config("…", error.to_string()))?;
        let written = write(&fresh.join(WEIGHTS), &self.file)
            .and_then(|()| write(&fresh.join(CONFIG), config.as_bytes()))
            .and_then(|()| {
                let replaced = folder.exists();
                if replaced {
                    let _ = fs::remove_dir_all(&former);
                    fs::rename(folder, &former)?;
                }
                let renamed = fs::rename(&fresh, folder);
                if renamed.is_err() && replaced {
                    let _ = fs::rename(&former, folder);
                }
                renamed
            });
        let _ = fs::remove_dir_all(&former);
        if written.is_err() {
            let _ = fs::remove_dir_all(&fresh);
        }
        written.map_err(|error| unwritten(folder, &error))
    }

    /// From a configuration and the bytes of a safetensors file.
    ///
    /// # Errors
    /// If the two do not fit.
    pub fn from_parts(name: &str, config: Config, file: Vec<u8>) -> Result<Self, Error> {
        let mut weights = Weights::parse(&file)?;
        let parameters = weights.parameters();
        let (layers, head) = build::build(&config, &mut weights)?;
        weights.end()?;
        let mut hash = blake3::Hasher::new();
        hash.update(&file);
        hash.update(&serde_json::to_vec(&config).map_err(|error| Error::config("…", error.to_string()))?);
        let version = hash.finalize().to_hex()[..32].to_owned();
        Ok(Self {
            name: name.to_owned(),
            version,
            config,
            layers,
            head,
            file,
            parameters,
            resident: Resident::default(),
        })
    }
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let failed = |error: std::io::Error| Error::file(path, format!("cannot be read: {error}"));
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let too_large = || Error::file(path, format!("has more than the {most} bytes that are allowed"));
    if size > most {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Error {
    Error::file(path, format!("cannot be written: {error}"))
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A file in the folder that is named as PyTorch's pickles are.
fn pickled(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let kinds = ["pt", "pth", "bin", "pkl", "ckpt"];
    entries
        .into_iter()
        .find(|path| path.extension().is_some_and(|kind| kinds.iter().any(|known| kind == *known)))
}

const MAX_CONFIG: u64 = 1 << 20;
