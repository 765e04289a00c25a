//! The signing key: made at the first start, kept in the data directory, readable by its owner only.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use flowmate_common::auth::TokenSigner;

const FILE: &str = "token-signing-key.der";

/// Makes a key where there is none.
pub fn make(directory: &Path) -> Result<(), String> {
    open(directory).map(|_| ())
}

/// Reads or makes the key.
pub(crate) fn open(directory: &Path) -> Result<TokenSigner, String> {
    let path = directory.join(FILE);
    let described = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let key = match fs::read(&path) {
        Ok(key) => key,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = TokenSigner::generate_key().map_err(|error| described(&error))?;
            write(directory, &key).map_err(|error| described(&error))?;
            key
        }
        Err(error) => return Err(described(&error)),
    };
    TokenSigner::from_pkcs8(&key).map_err(|error| described(&error))
}

/// Under another name first: half a key would lock everybody out.
fn write(directory: &Path, key: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let temporary = directory.join(format!("{FILE}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(key)?;
    file.sync_all()?;
    fs::rename(temporary, directory.join(FILE))?;
    fs::File::open(directory)?.sync_all()
}
