//! A TCP proxy between a backplane and Redis that can stop forwarding, cut, and lead elsewhere.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Forwards to this port.
    To(u16),
    /// Keeps connections open and forwards nothing any more, ever, on those that are there.
    BlackHole,
    /// Closes what is there, and whatever comes.
    Cut,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    way: Arc<watch::Sender<Way>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = Arc::new(watch::Sender::new(Way::To(target)));
        let ways = Arc::clone(&way);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let ways = ways.subscribe();
                drop(tokio::spawn(carry(stream, ways)));
            }
        });
        Self {
            port,
            way,
            accepting,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// From now on; connections that are there go the way of the old target no more.
    pub(crate) fn go(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(mut client: TcpStream, mut ways: watch::Receiver<Way>) {
    let way = *ways.borrow_and_update();
    let Way::To(port) = way else {
        if way == Way::BlackHole {
            stay(&mut ways).await;
        }
        return;
    };
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            biased;
            _ = ways.changed() => {
                if *ways.borrow_and_update() == Way::BlackHole {
                    stay(&mut ways).await;
                }
                return;
            }
            read = client.read(&mut up) => match read {
                Ok(count) if count > 0 => {
                    if server.write_all(&up[..count]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(count) if count > 0 => {
                    if client.write_all(&down[..count]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}

/// Until everything is cut.
async fn stay(ways: &mut watch::Receiver<Way>) {
    drop(ways.wait_for(|way| *way == Way::Cut).await);
}
