//! MQTT over WebSocket.

use dunlin_broker::config::{ClientAuth, ListenerKind};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        self, Bytes, Message,
        client::IntoClientRequest,
        http::{HeaderValue, StatusCode},
        protocol::frame::coding::CloseCode,
    },
};

use crate::{
    certificates::Authority,
    listeners::connect_tls,
    rig::{LIMIT, Rig, Setup},
};

type Opened<S> = Result<(WebSocketStream<S>, Option<String>), Box<tungstenite::Error>>;

/// Opens a WebSocket; gives it with the subprotocol that the server has chosen.
async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    path: &str,
    protocol: Option<&str>,
) -> Opened<S> {
    let mut request = format!("ws://localhost{path}")
        .into_client_request()
        .unwrap();
    if let Some(protocol) = protocol {
        request.headers_mut().insert(
            "Sec-WebSocket-Protocol",
            HeaderValue::from_str(protocol).unwrap(),
        );
    }
    let (stream, response) = client_async(request, stream).await.map_err(Box::new)?;
    let chosen = response.headers().get("Sec-WebSocket-Protocol");
    Ok((
        stream,
        chosen.map(|value| value.to_str().unwrap().to_owned()),
    ))
}

async fn open_mqtt(rig: &Rig) -> WebSocketStream<TcpStream> {
    open(rig.connect().await, "/mqtt", Some("mqtt"))
        .await
        .unwrap()
        .0
}

async fn next<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
) -> Option<Message> {
    let message = tokio::time::timeout(LIMIT, socket.next())
        .await
        .expect("nothing came");
    message.map(|message| message.unwrap())
}

/// Reads binary frames until there are `len` bytes.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    len: usize,
) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < len {
        match next(socket).await {
            Some(Message::Binary(bytes)) => got.extend_from_slice(&bytes),
            other => panic!("{other:?}"),
        }
    }
    got
}

fn binary(bytes: &'static [u8]) -> Message {
    Message::Binary(Bytes::from_static(bytes))
}

// [MQTT-6.0.0-1] v311 [MQTT-6.0.0-2] v311 [MQTT-6.0.0-1] v5 [MQTT-6.0.0-2] v5
#[tokio::test]
async fn frames_are_bytes_whatever_their_borders() {
    let mut rig = Setup::new(ListenerKind::Ws).start();
    let mut socket = open_mqtt(&rig).await;
    socket.send(binary(b"a packet in ")).await.unwrap();
    socket.send(binary(b"")).await.unwrap();
    socket.send(binary(b"two frames, and one")).await.unwrap();
    assert_eq!(
        read(&mut socket, 31).await,
        b"a packet in two frames, and one"
    );
    let large = vec![5; 50_000];
    socket
        .send(Message::Binary(large.clone().into()))
        .await
        .unwrap();
    assert_eq!(read(&mut socket, large.len()).await, large);
    rig.seen().await;
}

// [MQTT-6.0.0-4] v311 [MQTT-6.0.0-4] v5
#[tokio::test]
async fn the_subprotocol_is_mqtt() {
    let rig = Setup::new(ListenerKind::Ws).start();
    for (offered, chosen) in [
        ("mqtt", "mqtt"),
        ("mqttv3.1", "mqttv3.1"),
        ("other, mqtt", "mqtt"),
    ] {
        let (_, answer) = open(rig.connect().await, "/mqtt", Some(offered))
            .await
            .unwrap();
        assert_eq!(answer.as_deref(), Some(chosen), "{offered}");
    }
    for offered in [None, Some("chat")] {
        let error = open(rig.connect().await, "/mqtt", offered)
            .await
            .unwrap_err();
        let tungstenite::Error::Http(response) = *error else {
            panic!("{error}")
        };
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    }
    rig.refused("websocket", 2).await;
}

#[tokio::test]
async fn another_path_is_not_found() {
    let rig = Setup::new(ListenerKind::Ws).start();
    open(rig.connect().await, "/mqtt?token=1", Some("mqtt"))
        .await
        .unwrap();
    let error = open(rig.connect().await, "/", Some("mqtt"))
        .await
        .unwrap_err();
    let tungstenite::Error::Http(response) = *error else {
        panic!("{error}")
    };
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        response.body().as_deref(),
        Some(&b"MQTT over WebSocket is at /mqtt\n"[..])
    );
}

#[tokio::test]
async fn a_browser_that_asks_for_a_page_is_told() {
    let rig = Setup::new(ListenerKind::Ws).start();
    let mut stream = rig.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let answer = crate::rig::read_to_end(&mut stream).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 426 Upgrade Required\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("This port is for MQTT over WebSocket, not for HTTP."),
        "{answer}"
    );
    drop(stream);
    rig.refused("websocket", 1).await;
}

// [MQTT-6.0.0-1] v311 [MQTT-6.0.0-1] v5
#[tokio::test]
async fn a_text_frame_ends_the_connection_with_1003() {
    let mut rig = Setup::new(ListenerKind::Ws).start();
    let mut socket = open_mqtt(&rig).await;
    socket.send(Message::text("CONNECT")).await.unwrap();
    match next(&mut socket).await {
        Some(Message::Close(Some(frame))) => assert_eq!(frame.code, CloseCode::Unsupported),
        other => panic!("{other:?}"),
    }
    rig.seen().await;
    let workers = &rig.workers;
    crate::rig::wait_for("the end of the connection", || workers.tasks() == 0).await;
}

#[tokio::test]
async fn a_ping_is_answered() {
    let rig = Setup::new(ListenerKind::Ws).start();
    let mut socket = open_mqtt(&rig).await;
    socket
        .send(Message::Ping(Bytes::from_static(b"there?")))
        .await
        .unwrap();
    assert_eq!(
        next(&mut socket).await,
        Some(Message::Pong(Bytes::from_static(b"there?")))
    );
}

#[tokio::test]
async fn a_message_above_the_bound_ends_the_connection_before_memory_is_spent() {
    let rig = Setup::new(ListenerKind::Ws).start();
    let mut stream = rig.connect().await;
    let mut socket = open(&mut stream, "/mqtt", Some("mqtt")).await.unwrap().0;
    socket.send(binary(b"x")).await.unwrap();
    assert_eq!(read(&mut socket, 1).await, b"x");
    drop(socket);
    // The head of a binary frame of 64 KiB and one byte, and nothing of its body.
    stream
        .write_all(&[0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4])
        .await
        .unwrap();
    crate::rig::read_to_end(&mut stream).await;
    let workers = &rig.workers;
    crate::rig::wait_for("the end of the connection", || workers.tasks() == 0).await;
}

#[tokio::test]
async fn a_client_that_closes_is_answered() {
    let mut rig = Setup::new(ListenerKind::Ws).start();
    let mut socket = open_mqtt(&rig).await;
    rig.seen().await;
    socket.close(None).await.unwrap();
    assert!(matches!(
        next(&mut socket).await,
        None | Some(Message::Close(_))
    ));
    let workers = &rig.workers;
    crate::rig::wait_for("the end of the connection", || workers.tasks() == 0).await;
}

#[tokio::test]
async fn secure_websockets_work_too() {
    let authority = Authority::new();
    let mut rig = Setup::new(ListenerKind::Wss)
        .tls(authority.server(ClientAuth::None, None))
        .start();
    let stream = connect_tls(&rig, authority.client(None)).await.unwrap();
    let (mut socket, _) = open(stream, "/mqtt", Some("mqtt")).await.unwrap();
    socket.send(binary(b"hello")).await.unwrap();
    assert_eq!(read(&mut socket, 5).await, b"hello");
    rig.seen().await;
}
