//! What others on the same machine can see and reach: the process list, open ports, and a browser with a hostile page.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use causeway_tests::{
    chromium,
    curl::Curl,
    process::Process,
    site::Face,
    topology::Topology,
    wait::{until, within},
};

const LIMIT: Duration = Duration::from_secs(120);

/// `TCP_LISTEN` in the kernel's tables.
const LISTENING: &str = "0A";

/// A page may send requests to any port of this machine; it gets 403, and the service behind the face hears nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_gets_403_from_a_face() {
    within(LIMIT, async {
        let topology = Topology::direct().await;
        let nginx = &topology.site.nginx;
        fs::write(nginx.web().join("page.html"), include_str!("exposure.html")).unwrap();
        let face = topology.connector.address(Face::Web);
        // Whoever is no page is served.
        assert_eq!(Curl::new(format!("http://{face}/page.html")).run().await.status, 200);
        let mark = topology.connector.process.log().mark();

        let page = format!("http://{}/page.html#{face}", nginx.address);
        let _chromium = chromium::open(topology.site.path(), &page, &[]);
        let told = until("the page to tell what came of it", async || {
            nginx.accesses().into_iter().find(|line| line.contains("/told?"))
        })
        .await;
        // The blind ones get an answer that they cannot look into.
        assert_eq!(told, "GET /told?failed-opaque-opaque-failed-failed 404");
        let of_the_page = |line: &String| line.contains("of-a-page");
        assert!(!nginx.accesses().iter().any(of_the_page), "{:?}", nginx.accesses());
        let entries = topology.connector.process.log().since(mark);
        let statuses: Vec<_> =
            entries.iter().filter(|entry| entry.stream("http").is_some()).map(|entry| entry.field("status")).collect();
        assert_eq!(statuses, vec![Some("403".to_owned()); 5]);
    })
    .await;
}

/// Whoever lists processes learns the names of files, never what is in them.
#[tokio::test(flavor = "multi_thread")]
async fn the_process_list_holds_no_secret() {
    within(LIMIT, async {
        let topology = Topology::relay().await;
        let secrets = ["listen.key", "send.key", "connector.token"]
            .map(|name| fs::read_to_string(topology.site.file(name)).unwrap().trim().to_owned());
        for (name, process) in programs(&topology) {
            for kind in ["cmdline", "environ"] {
                let shown = fs::read(format!("/proc/{}/{kind}", process.id())).unwrap();
                let shown = String::from_utf8_lossy(&shown);
                // That it is the right process, and that the search finds what is there.
                assert!(kind != "cmdline" || shown.contains(".yaml"), "{name}: {shown}");
                for secret in &secrets {
                    assert!(!shown.contains(secret.as_str()), "the {kind} of the {name} holds a secret");
                }
            }
        }
    })
    .await;
}

/// No program opens a port that its config does not name; those that are not the gateway's or the relay's own stay on
/// loopback.
#[tokio::test(flavor = "multi_thread")]
async fn programs_listen_where_their_config_says_and_nowhere_else() {
    within(LIMIT, async {
        let mut topology = Topology::relay().await;
        let (gateway_port, relay_port) = (topology.gateway_address, topology.relay_address());
        let listening: BTreeMap<_, _> =
            programs(&topology).map(|(name, process)| (name, ports(process.id()))).into_iter().collect();
        let admin = topology.gateway.address("admin").await;
        assert_eq!(listening["gateway"], BTreeSet::from([gateway_port, admin]));
        let (relay, listener) = topology.relay.as_mut().unwrap();
        let admin = relay.address("admin").await;
        assert_eq!(listening["relay"], BTreeSet::from([relay_port, admin]));
        assert_eq!(listening["listener"], BTreeSet::from([listener.address("admin").await]));
        let faces = [
            Face::Caller,
            Face::Web,
            Face::Denied,
            Face::Unresolvable,
            Face::Refused,
            Face::Echo,
            Face::Checksum,
            Face::DeniedTcp,
        ];
        let faces = faces.map(|face| topology.connector.address(face));
        assert_eq!(listening["connector"], faces.into_iter().chain([topology.connector.admin]).collect());
        let open = |address: &&SocketAddr| !address.ip().is_loopback();
        assert_eq!(listening.values().flatten().find(open), None);
    })
    .await;
}

fn programs(topology: &Topology) -> [(&'static str, &Process); 4] {
    let (relay, listener) = topology.relay.as_ref().unwrap();
    [
        ("connector", &topology.connector.process),
        ("gateway", &topology.gateway),
        ("relay", relay),
        ("listener", listener),
    ]
}

/// The TCP addresses on which a process listens, as the kernel tells.
fn ports(process: u32) -> BTreeSet<SocketAddr> {
    let sockets: BTreeSet<String> = fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/{process}/net/{name}")).unwrap());
    tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            (fields[3] == LISTENING && sockets.contains(fields[9])).then(|| address(fields[1]))
        })
        .collect()
}

/// `0100007F:1F90`: words of four bytes in the machine's order, then the port.
fn address(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').unwrap();
    let words =
        ip.as_bytes().chunks(8).map(|word| u32::from_str_radix(std::str::from_utf8(word).unwrap(), 16).unwrap());
    let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::V4(Ipv4Addr::from(bytes)),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
    };
    SocketAddr::new(ip, u16::from_str_radix(port, 16).unwrap())
}
