//! A plain stream: header, frame, header, frame.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;

use crate::order::Header;
use crate::{Incoming, Outgoing, say};

fn with_timeout(stream: TcpStream, timeout: Duration) -> Result<TcpStream> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(crate) struct Sender(TcpStream);

impl Sender {
    pub(crate) fn connect(address: &str, timeout: Duration) -> Result<Self> {
        let to = address.to_socket_addrs()?.next().context("no such address")?;
        let stream =
            TcpStream::connect_timeout(&to, timeout).with_context(|| address.to_owned())?;
        Ok(Self(with_timeout(stream, timeout)?))
    }
}

impl Outgoing for Sender {
    fn send(&mut self, header: Header, frame: Bytes) -> Result<()> {
        self.0.write_all(&header.to_bytes())?;
        Ok(self.0.write_all(&frame)?)
    }

    fn answer(&mut self) -> Result<String> {
        let mut text = String::new();
        self.0.read_to_string(&mut text).context("no answer")?;
        Ok(text)
    }
}

pub(crate) struct Receiver(TcpStream);

impl Receiver {
    pub(crate) fn listen(address: &str, timeout: Duration) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
        listener.set_nonblocking(true)?;
        say(format_args!("receiver: listens on {address}, tcp"))?;
        let until = Instant::now() + timeout;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(Self(with_timeout(stream, timeout)?));
                }
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error.into()),
                Err(_) if Instant::now() > until => bail!("nobody connects"),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Incoming for Receiver {
    fn next(&mut self) -> Result<Header> {
        let mut header = [0; Header::LEN];
        self.0.read_exact(&mut header).context("no frame, and no end either")?;
        Ok(Header::from_bytes(header))
    }

    fn read(&mut self, frame: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(frame)
    }

    fn answer(&mut self, text: &str) -> Result<()> {
        Ok(self.0.write_all(text.as_bytes())?)
    }
}
