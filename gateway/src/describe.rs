//! `gateway describe`: what the gateway of a cluster is and knows, asked through a tunnel of its own. It uses the
//! connector's configuration and opens no port.
use std::fmt::Write as _;

use daemon::{config::Loaded, process::Context};
use proto::tunnel::pb;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    call::{self, CallError},
    connect::{Cluster, Config, tunnels, way::Opened},
};

/// What was told.
#[derive(Debug)]
pub struct Described {
    way: String,
    state: pb::DescribeResponse,
}

/// Opens a tunnel and gives what the gateway says first. Tasks belong to `context.shutdown`.
///
/// # Errors
/// The configuration cannot be used, or no way leads to the cluster.
pub async fn describe(config: Loaded<Config>, context: &Context, name: &str) -> Result<Described, CallError> {
    let cluster = Cluster::of(&config, name, context)?.ok_or_else(|| call::unknown(&config, name))?;
    let Opened { client, driver, way, address, state, .. } = call::open(&cluster, name).await?;
    context.shutdown.spawn(driver);
    // The tunnel's own beginning has asked already.
    drop(client);
    Ok(Described { way: format!("{way} {address}"), state })
}

impl Described {
    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let mut all = tunnels::described(&self.state);
        all["cluster"] = self.state.cluster.clone().into();
        all["way"] = self.way.clone().into();
        all["actor"] = self.state.actor.clone().into();
        all["actor_expires"] = self.state.actor_expires.into();
        all
    }

    /// For people.
    pub fn text(&self) -> String {
        let state = &self.state;
        let until = OffsetDateTime::from_unix_timestamp(state.actor_expires).ok();
        let until = until.and_then(|until| until.format(&Rfc3339).ok()).unwrap_or_else(|| "(unknown)".to_owned());
        let mut text = format!(
            "cluster     {}\nway         {}\ngateway     {}\nfeatures    {}\nactor       {}, until {until}\n",
            state.cluster,
            self.way,
            state.version,
            state.features.join(", "),
            state.actor,
        );
        // Writing to a String does not fail.
        let _ = match &state.kubernetes {
            None => writeln!(text, "kubernetes  (the gateway does not ask, or has not heard yet)"),
            Some(pb::Kubernetes { version, nodes: None }) => {
                writeln!(text, "kubernetes  {version}\nnodes       (the gateway may not list them)")
            }
            Some(pb::Kubernetes { version, nodes: Some(nodes) }) => {
                let room: Vec<String> = nodes.allocatable.iter().map(quantity).collect();
                writeln!(text, "kubernetes  {version}\nnodes       {}, {} ready", nodes.count, nodes.ready)
                    .and_then(|()| writeln!(text, "room        {}", room.join(", ")))
            }
        };
        text
    }
}

/// As people read it: bytes in GiB, everything else in its unit.
fn quantity(quantity: &pb::Quantity) -> String {
    let value = quantity.milli as f64 / 1000.0;
    match quantity.resource.as_str() {
        name @ ("memory" | "ephemeral-storage") => format!("{name} {:.1} GiB", value / f64::from(1 << 30)),
        name => format!("{name} {value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_told_and_what_is_not_is_said() {
        let quantity = |resource: &str, milli| pb::Quantity { resource: resource.to_owned(), milli };
        let allocatable = vec![quantity("cpu", 3920), quantity("memory", 16 * (1 << 30) * 1000)];
        let mut state = pb::DescribeResponse { cluster: "factory-a".to_owned(), ..Default::default() };
        let text = |state: &pb::DescribeResponse| Described { way: "direct".to_owned(), state: state.clone() }.text();
        assert!(text(&state).contains("kubernetes  (the gateway does not ask"));
        state.kubernetes = Some(pb::Kubernetes { version: "v1.30.2".to_owned(), nodes: None });
        assert!(text(&state).ends_with("kubernetes  v1.30.2\nnodes       (the gateway may not list them)\n"));
        let nodes = pb::Nodes { count: 3, ready: 2, allocatable };
        state.kubernetes = Some(pb::Kubernetes { version: "v1.30.2".to_owned(), nodes: Some(nodes) });
        assert!(
            text(&state).ends_with("nodes       3, 2 ready\nroom        cpu 3.92, memory 16.0 GiB\n"),
            "{}",
            text(&state)
        );
        let json = Described { way: "direct".to_owned(), state }.json();
        assert_eq!(json["kubernetes"]["nodes"]["allocatable"]["cpu"], 3.92);
    }
}
