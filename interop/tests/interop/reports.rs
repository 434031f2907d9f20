//! What logs and errors say: tracing, anyhow.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use sealed_mmap::{ReceiveError, Refusal, SealPolicy, SealedFile};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn tracing_records_files_and_refusals() -> Result<()> {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || -> Result<()> {
        let file = SealedFile::from_bytes("frame", b"SECRET")?;
        let policy = SealPolicy::untrusted(4);

        tracing::info!(?file, "sent");
        if let Err(error) = SealedFile::receive_read_only(file, &policy) {
            tracing::warn!(error = &error as &dyn Error, "refused");
        }
        Ok(())
    })?;
    let log = String::from_utf8(log.0.lock().unwrap().clone())?;
    assert!(log.contains("sent file=SealedFile { state: ReadOnlySealed"), "{log}");
    assert!(log.contains("refused error=") && log.contains("6 bytes"), "{log}");
    assert!(!log.contains("SECRET") && !log.contains("83, 69"), "{log}");
    Ok(())
}

#[test]
fn anyhow_keeps_the_refusal_and_the_descriptor() -> Result<()> {
    fn receive(fd: OwnedFd) -> Result<SealedFile> {
        SealedFile::receive_read_only(fd, &SealPolicy::new()).context("the first frame")
    }
    let fd = OwnedFd::from(File::open("/dev/null")?);
    let number = fd.as_raw_fd();

    let error = receive(fd).unwrap_err();
    let text = format!("{error:#}");
    let refused: ReceiveError = error.downcast()?;

    assert!(text.starts_with("the first frame: refused \"/dev/null\": "), "{text}");
    assert!(matches!(refused.reason(), Refusal::NotSealable(_)), "{text}");
    assert_eq!(refused.into_fd().as_raw_fd(), number);
    Ok(())
}
