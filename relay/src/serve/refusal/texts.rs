//! The catalogue's words: code, what the peer reads, meaning, remedy.
use super::Refusal;

impl Refusal {
    pub(super) fn texts(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::BadTarget => (
                "bad_target",
                "The address is not one of a hybrid connection",
                "The path has dot segments, or sb-hc-action is none of listen, connect, accept, request.",
                "Dial /$hc/<entity>?sb-hc-action=connect (or listen).",
            ),
            Self::BadHost => (
                "bad_host",
                "The Host header is missing or malformed",
                "A listener's rendezvous addresses are built from the Host of its handshake.",
                "Send the host and port that you dialled.",
            ),
            Self::NotWebSocket => (
                "not_websocket",
                "This endpoint is only for web-socket requests",
                "A request below /$hc/ has to be a WebSocket upgrade (RFC 6455).",
                "Look for a proxy that removes Connection or Upgrade headers.",
            ),
            Self::WebSocketVersion => (
                "websocket_version",
                "This endpoint speaks version 13 of the WebSocket protocol",
                "Sec-WebSocket-Version is not 13.",
                "Use a client of RFC 6455.",
            ),
            Self::PlainPathWebSocket => (
                "plain_path_websocket",
                "WebSocket endpoints are below /$hc/",
                "A WebSocket upgrade came on the entity's plain path.",
                "Put /$hc/ in front of the entity name.",
            ),
            Self::KindMismatch => (
                "kind_mismatch",
                "The endpoint does not take senders of this kind",
                "An HTTP request came to a hybrid connection for WebSockets, or a WebSocket to one for HTTP.",
                "Use the other kind of sender, or set `kind: both` if its listeners understand both.",
            ),
            Self::ConnectMethod => (
                "connect_method",
                "CONNECT is not relayed",
                "HTTP's CONNECT asks for a tunnel, and HTTP senders have none.",
                "Use a WebSocket sender.",
            ),
            Self::ManagementMethod => (
                "management_method",
                "Hybrid connections of this relay are described here, and changed in its files",
                "A request with X-PROCESS-AT: ServiceBus, which is for the relay itself, is no GET.",
                "Change hybrid connections with `relay entity`; without that field the request goes to a listener.",
            ),
            Self::TokenMissing => (
                "token_missing",
                "MissingToken: The request has no token",
                "Neither sb-hc-token nor ServiceBusAuthorization nor Authorization carries a token.",
                "Send a token in the header ServiceBusAuthorization.",
            ),
            Self::TokenMalformed => (
                "token_malformed",
                "MalformedToken: The token is neither a shared access signature nor a JWT that this relay could check",
                "A field of the token is missing or doubled, or it is another kind of token, or no authenticators are set.",
                "Make the token with `relay token` or an SDK; for JWTs, set authenticators and grants.",
            ),
            Self::TokenSignature => (
                "token_signature",
                "InvalidSignature: The token has an invalid signature",
                "No key of the named rule made this signature, or this path has no such rule.",
                "Compare rule name and key with the relay's configuration.",
            ),
            Self::TokenExpired => (
                "token_expired",
                "ExpiredToken: The token is expired",
                "The token's end has passed by more than the grace.",
                "Make a new token; if it is new, compare the clocks.",
            ),
            Self::TokenAudience => (
                "token_audience",
                "InvalidAudience: The authorization header contains a token with a wrong audience",
                "The token was made for another host or another hybrid connection.",
                "Make the token for http://<namespace>/<entity>.",
            ),
            Self::TokenLife => (
                "token_life",
                "InvalidLifetime: The token lives longer than this relay allows",
                "The token's end lies further ahead than tokens.max_life.",
                "Make tokens with a shorter life, or raise tokens.max_life.",
            ),
            Self::RightMissing => (
                "right_missing",
                "The token does not have the right that this action needs",
                "Listening needs listen, connecting needs send: of the rule that made the token, or by a grant to its holder.",
                "Use the key of the other rule, or grant the right to this subject.",
            ),
            Self::Jwt(error) => (error.name(), error.meaning(), error.meaning(), error.remedy()),
            Self::ListenerAddress => (
                "listener_address",
                "AddressNotAllowed: Listeners of this endpoint may not come from this address",
                "The token is good, and the address of the connection is in none of the ranges of listeners_from.",
                "Let the listener dial from where it belongs, or add its address to listeners_from of the entity.",
            ),
            Self::EntityUnknown => (
                "entity_unknown",
                "Endpoint does not exist",
                "The namespace has no hybrid connection of this name.",
                "Compare the path with `entities:` in the relay's configuration.",
            ),
            Self::EntityDisabled => (
                "entity_disabled",
                "EntityDisabled: The endpoint is disabled",
                "The hybrid connection exists, and its owner has set `enabled: false`.",
                "Ask the relay's owner; it is open again as soon as it is enabled.",
            ),
            Self::NoListener => (
                "no_listener",
                "There are no listeners connected for the endpoint",
                "The hybrid connection exists, and nobody listens on it.",
                "Look at the listener's log in the cluster.",
            ),
            Self::NoEligibleListener => (
                "no_eligible_listener",
                "None of the connected listeners meet the AllowedListeners/DisallowedListeners criteria",
                "The sender names listeners that it wants or does not want, and no other is connected.",
                "Compare the ids in Microsoft-Relay-AllowedListeners with the relay's `/statusz`.",
            ),
            Self::AcceptTimeout => (
                "accept_timeout",
                "None of the connected listeners accepted the connection within the allowed timeout",
                "A listener was asked and did not dial back in time.",
                "Look whether the listener can reach the relay with a second connection.",
            ),
            Self::ResponseTimeout => (
                "response_timeout",
                "The request was routed to the listener but the listener did not respond in the required time",
                "A listener has the request and did not begin its answer within http.response_timeout.",
                "Look for a slow target behind the listener, or raise the limit.",
            ),
            Self::BadResponse => (
                "bad_response",
                "The listener did not answer with an HTTP response",
                "Its status is none that ends a request, or its rendezvous held something else than an answer.",
                "Look at the listener's log.",
            ),
            Self::ListenerLost => (
                "listener_lost",
                "The listener went away before it answered",
                "The listener's control channel or its dial broke, and no other listener could be asked.",
                "Try again; look at the listener's log if it repeats.",
            ),
            Self::TooManyListeners => (
                "too_many_listeners",
                "MaximumListenersPerEndpoint: the endpoint has as many listeners as it may have",
                "limits.listeners of the hybrid connection is reached.",
                "Stop a listener, or raise the limit.",
            ),
            Self::TooManySenders => (
                "too_many_senders",
                "MaximumSendersPerEndpoint: the endpoint has as many senders as it may have",
                "limits.senders of the hybrid connection is reached.",
                "Try again when others have gone, or raise the limit.",
            ),
            Self::TooManyRequests => (
                "too_many_requests",
                "MaximumRequestsPerSecond: the endpoint has had as many requests in this second as it may have",
                "limits.requests_per_second of the hybrid connection is reached; answer and Retry-After say when the next may come.",
                "Send more slowly, or raise the limit.",
            ),
            Self::TooManyConnections => (
                "too_many_connections",
                "MaximumConnectionsPerAddress: this address has as many connections as it may have",
                "limits.connections_per_address is reached. A whole site may be behind one address.",
                "Close connections, or raise the limit.",
            ),
            Self::TooManyRendezvous => (
                "too_many_rendezvous",
                "Too many senders are waiting for listeners",
                "limits.rendezvous is reached, or a quarter of it by this hybrid connection or address while others are waiting.",
                "Try again shortly; look why listeners accept so slowly.",
            ),
            Self::HeadTooLarge => (
                "head_too_large",
                "The request head does not fit into a message to the listener",
                "Messages to listeners are limited to 64 KiB because SDKs read no more.",
                "Send fewer or shorter headers.",
            ),
            Self::BodyTooSlow => (
                "body_too_slow",
                "The request's body did not come in time",
                "The sender paused in its body for longer than http.idle_timeout.",
                "Send without pauses, or raise the limit.",
            ),
            Self::BodyBroken => (
                "body_broken",
                "The request's body breaks the rules of HTTP",
                "The body is shorter than announced, or its chunks are malformed.",
                "Look for a proxy that changes bodies.",
            ),
            Self::RendezvousUnknown => (
                "rendezvous_unknown",
                "The rendezvous address is not valid (any more)",
                "It was never given out, was used before, belongs to another endpoint, or its sender has gone.",
                "Dial an accept address once, as it is, within 30 seconds.",
            ),
            Self::RejectCode => (
                "reject_code",
                "sb-hc-statusCode is not a number from 100 to 999",
                "A listener rejects a sender with something that is no HTTP status.",
                "Reject with a status from 300 to 599.",
            ),
            Self::ProtocolNotOffered => (
                "protocol_not_offered",
                "The chosen subprotocol was not offered by the sender",
                "A listener's dial names a subprotocol that is not among the sender's.",
                "Choose one from connectHeaders, or none.",
            ),
            Self::Draining => (
                "draining",
                "The relay is shutting down",
                "The relay takes nothing new while it ends.",
                "Try again; another relay, or this one restarted, will answer.",
            ),
        }
    }
}
