//! What the relay tells about its listeners on `/events` and `/statusz`.
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Error, client::IntoClientRequest as _},
};

use crate::support::{Control, Relay, Socket, until};

/// A listener on `e` from an address of its own; all of 127.0.0.0/8 is this machine.
pub(crate) async fn listener_from(relay: &Relay, source: &str) -> Control {
    Control(listen_from(relay, source).await.unwrap())
}

/// The same, and perhaps refused.
pub(crate) async fn listen_from(relay: &Relay, source: &str) -> Result<Socket, Box<Error>> {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    listen(relay, socket.connect(relay.address).await.unwrap(), source).await
}

/// A listener on `e` on this connection.
pub(crate) async fn listen_on(relay: &Relay, stream: TcpStream, id: &str) -> Control {
    Control(listen(relay, stream, id).await.unwrap())
}

async fn listen(relay: &Relay, stream: TcpStream, id: &str) -> Result<Socket, Box<Error>> {
    let target = format!("ws://{}/$hc/e?sb-hc-action=listen&sb-hc-id={id}", relay.address);
    let mut request = target.into_client_request().unwrap();
    request.headers_mut().insert("ServiceBusAuthorization", relay.listen_token().parse().unwrap());
    Ok(client_async(request, stream).await?.0)
}

#[tokio::test]
async fn a_listener_that_comes_and_goes_is_told_with_who_it_was_and_why_it_went() {
    let relay = Relay::new().await;
    let mut control = relay.listener().await;
    until("the listener is registered", || relay.events("listener_connected").len() == 1).await;
    let connected = relay.events("listener_connected").pop().unwrap();
    for (field, value) in [("entity", "e"), ("listener", "listener-1"), ("address", "127.0.0.1"), ("holder", "listen")]
    {
        assert_eq!(connected[field], value, "{connected:?}");
    }
    let shown = relay.shown_listener("listener-1");
    assert_eq!((&shown["holder"], &shown["since"]), (&connected["holder"], &connected["since"]));
    assert!(shown["since"].as_str().unwrap().ends_with('Z'), "{shown}");
    control.0.close(None).await.unwrap();
    until("its end is told", || relay.events("listener_disconnected").len() == 1).await;
    let gone = relay.events("listener_disconnected").pop().unwrap();
    for field in ["entity", "listener", "address", "holder", "since"] {
        assert_eq!(gone[field], connected[field]);
    }
    assert_eq!((&gone["reason"], &gone["fault"]), (&"closed".into(), &"none".into()));
}

#[tokio::test]
async fn a_listener_from_an_address_that_none_came_from_before_is_an_event() {
    let relay = Relay::new().await;
    let first = listener_from(&relay, "127.0.0.1").await;
    let again = listener_from(&relay, "127.0.0.1").await;
    let thief = listener_from(&relay, "127.66.6.6").await;
    until("all are registered", || relay.events("listener_connected").len() == 3).await;
    let news = relay.events("listener_new_address");
    assert_eq!(news.len(), 1, "{news:?}");
    assert_eq!((&news[0]["address"], &news[0]["holder"]), (&"127.66.6.6".into(), &"listen".into()));
    // Even when nobody else is there any more, and only once.
    drop((first, again, thief));
    until("all are gone", || relay.events("listener_disconnected").len() == 3).await;
    let _back = listener_from(&relay, "127.66.6.6").await;
    let _other = listener_from(&relay, "127.77.7.7").await;
    until("both are registered", || relay.events("listener_connected").len() == 5).await;
    let addresses: Vec<_> = relay.events("listener_new_address").into_iter().map(|mut e| e.remove("address")).collect();
    assert_eq!(addresses, [Some("127.66.6.6".into()), Some("127.77.7.7".into())]);
}

#[tokio::test]
async fn a_listeners_id_cannot_write_into_events() {
    let relay = Relay::new().await;
    let _control = relay.listener_as("x%0d%0aevent:%20fake%1b[31m").await;
    until("the listener is registered", || relay.events("listener_connected").len() == 1).await;
    let shown = relay.events("listener_connected")[0]["listener"].as_str().unwrap().to_owned();
    assert!(shown.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'), "{shown}");
}
