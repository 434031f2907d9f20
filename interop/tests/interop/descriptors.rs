//! Descriptors without blocking (tokio, async-io, smol), over D-Bus (zbus), to a child (`Stdio`,
//! command-fds), and through nix.

use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use async_io::Async;
use command_fds::{CommandFdExt, FdMapping};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use sealed_mmap::socket::{recv_fd, send_fds};
use sealed_mmap::{SealPolicy, SealedFile};
use tokio::io::Interest;
use zbus::zvariant;

fn assert_is_frame(fd: impl Into<OwnedFd>) -> Result<()> {
    let frame = SealedFile::receive_read_only(fd, &SealPolicy::untrusted(1 << 20))?;
    assert_eq!(&frame.map_read_only()?[..], b"pixels");
    Ok(())
}

fn with_tokio<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(future)
}

#[test]
fn tokio_sends_and_receives_without_blocking() -> Result<()> {
    let frame = SealedFile::from_bytes("frame", b"pixels")?;
    with_tokio(async {
        let (socket, peer) = tokio::net::UnixStream::pair()?;
        // The receiver is polled first: it has to wait on the only thread there is.
        let receive = async {
            let mut header = [0; 5];
            let (len, fd) =
                socket.async_io(Interest::READABLE, || recv_fd(&socket, &mut header)).await?;

            assert_eq!(&header[..len], b"frame");
            assert_is_frame(fd.context("no descriptor")?)
        };
        let send = async {
            let fds = [frame.as_fd()];
            peer.async_io(Interest::WRITABLE, || send_fds(&peer, b"frame", &fds)).await?;
            Ok(())
        };
        smol::future::try_zip(receive, send).await
    })?;
    Ok(())
}

async fn between_async_sockets(socket: Async<UnixStream>, peer: Async<UnixStream>) -> Result<()> {
    let frame = SealedFile::from_bytes("frame", b"pixels")?;
    let receive = async {
        let mut header = [0; 5];
        let (len, fd) = socket.read_with(|socket| recv_fd(socket, &mut header)).await?;

        assert_eq!(&header[..len], b"frame");
        assert_is_frame(fd.context("no descriptor")?)
    };
    let send = async {
        peer.write_with(|peer| send_fds(peer, b"frame", &[frame.as_fd()])).await?;
        Ok(())
    };
    smol::future::try_zip(receive, send).await?;
    Ok(())
}

#[test]
fn async_io_sends_and_receives_without_blocking() -> Result<()> {
    let (socket, peer) = Async::<UnixStream>::pair()?;
    async_io::block_on(between_async_sockets(socket, peer))
}

#[test]
fn smol_has_the_sockets_of_async_io() -> Result<()> {
    let (socket, peer) = smol::Async::<UnixStream>::pair()?;
    let executor = smol::LocalExecutor::new();
    smol::block_on(executor.run(between_async_sockets(socket, peer)))
}

struct Camera {
    frame: SealedFile,
}

#[zbus::interface(name = "org.example.Camera")]
impl Camera {
    fn frame(&self) -> zbus::fdo::Result<zvariant::OwnedFd> {
        let frame = self.frame.try_clone().map_err(zbus::Error::from)?;
        Ok(OwnedFd::from(frame).into())
    }

    /// The other direction: what a client sends.
    fn show(&self, frame: zvariant::OwnedFd) -> zbus::fdo::Result<u64> {
        let frame = SealedFile::receive_read_only(frame, &SealPolicy::untrusted(1 << 20))
            .map_err(|error| zbus::fdo::Error::InvalidArgs(error.to_string()))?;
        Ok(frame.len().map_err(zbus::Error::from)?)
    }
}

#[test]
fn zbus_carries_files_as_fd_both_ways() -> Result<()> {
    with_tokio(async {
        let (ours, theirs) = tokio::net::UnixStream::pair()?;
        let camera = Camera { frame: SealedFile::from_bytes("frame", b"pixels")? };
        let server = zbus::connection::Builder::unix_stream(theirs)
            .server(zbus::Guid::generate())?
            .p2p()
            .serve_at("/camera", camera)?
            .build();
        let client = zbus::connection::Builder::unix_stream(ours).p2p().build();
        let (_server, connection) = smol::future::try_zip(server, client).await?;

        let reply = connection
            .call_method(None::<&str>, "/camera", Some("org.example.Camera"), "Frame", &())
            .await?;
        let fd: zvariant::OwnedFd = reply.body().deserialize()?;
        let frame = SealedFile::receive_read_only(fd, &SealPolicy::untrusted(1 << 20))?;

        assert_eq!(&frame.map_read_only()?[..], b"pixels");

        let argument = zvariant::Fd::from(frame.as_fd());
        let reply = connection
            .call_method(None::<&str>, "/camera", Some("org.example.Camera"), "Show", &(argument,))
            .await?;
        assert_eq!(reply.body().deserialize::<u64>()?, 6);

        let draft = SealedFile::create("not sealed")?.into_file();
        let argument = zvariant::Fd::from(draft.as_fd());
        let error = connection
            .call_method(None::<&str>, "/camera", Some("org.example.Camera"), "Show", &(argument,))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("the file lacks the seals shrink|grow|write"), "{error}");
        Ok(())
    })
}

#[test]
fn a_child_reads_the_file_as_its_standard_input() -> Result<()> {
    let frame = SealedFile::from_bytes("frame", b"pixels")?;

    let output = Command::new("cat").stdin(frame.try_clone()?).output()?;

    assert_eq!(output.stdout, b"pixels");
    Ok(())
}

#[test]
fn command_fds_gives_a_child_any_number() -> Result<()> {
    let frame = SealedFile::from_bytes("frame", b"pixels")?;
    let table = SealedFile::from_bytes("table", b"rows")?;

    let mut command = Command::new("sh");
    command.args(["-c", "cat <&5; cat <&6"]).stdin(Stdio::null()).fd_mappings(vec![
        FdMapping { parent_fd: frame.into(), child_fd: 5 },
        FdMapping { parent_fd: table.into(), child_fd: 6 },
    ])?;

    assert_eq!(command.output()?.stdout, b"pixelsrows");
    Ok(())
}

#[test]
fn nix_makes_files_and_uses_files() -> Result<()> {
    let memfd = memfd_create("frame", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(b"pixels")?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK))?;
    let frame = SealedFile::receive_read_only(file, &SealPolicy::new())?;

    let mut copy = SealedFile::create("copy")?.into_file();
    let sent = sendfile(&copy, &frame, Some(&mut 0), 6)?;

    assert_eq!(sent, 6);
    copy.rewind()?;
    assert_is_frame(SealedFile::adopt_read_only(copy, &SealPolicy::untrusted(6))?)
}
