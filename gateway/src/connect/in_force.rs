//! What of the configuration is in force: clusters with the tunnels held to them, and faces.
//!
//! A change is prepared as a whole before anything of it counts: files are read, credentials opened, places bound. Then it
//! is taken over at once, and cannot fail any more. What it leaves as it was keeps its tunnels, listeners and streams; what
//! goes takes nothing new, and ends with its last stream.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use arc_swap::ArcSwap;
use daemon::{config::Loaded, process::Context, workers::Spread};
use identity::ca::Authority;
use proto::tunnel::budget::Budget;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Config, StartError,
    cluster::{Cluster, Outer, Source},
    config::{FaceConfig, FaceKind},
    face::{self, Bound, Face, Ground, Listener, Login, kubernetes::authority},
    metrics::ConnectMetrics,
    tunnels::{
        Tunnels,
        keep::{Care, keep},
    },
    way::candidate::Ways,
};

/// The faces that are open now. Clones show the same.
pub(super) type Faces = Arc<ArcSwap<Vec<Arc<Face>>>>;

/// What is in force.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) ground: Ground,
    pub(super) shown: Faces,
    context: Context,
    metrics: ConnectMetrics,
    /// Ends every tunnel.
    stop: CancellationToken,
    /// How many tunnels each worker drives.
    places: Spread,
    budget: Budget,
    outer: Option<Outer>,
    clusters: BTreeMap<String, Held>,
    faces: Vec<Open>,
}

/// A cluster to which tunnels are held.
#[derive(Debug)]
struct Held {
    cluster: Cluster,
    ways: watch::Sender<Ways>,
    /// One for each tunnel.
    keepers: Vec<CancellationToken>,
    /// The one for the tunnel that bulk gets.
    bulk: Option<CancellationToken>,
}

/// A face that is served.
#[derive(Debug)]
struct Open {
    config: FaceConfig,
    listener: Arc<Listener>,
    face: Arc<Face>,
}

/// A change that can be taken over.
#[derive(Debug)]
pub(super) struct Prepared {
    outer: Outer,
    /// What signs the certificates of Kubernetes faces.
    authority: Option<Arc<Authority>>,
    clusters: Vec<(String, Cluster)>,
    faces: Vec<PreparedFace>,
}

#[derive(Debug)]
struct PreparedFace {
    config: FaceConfig,
    kind: FaceKind,
    login: Option<Login>,
    from: Origin,
}

/// Where a face's listener comes from.
#[derive(Debug)]
enum Origin {
    /// The whole face is there already.
    Kept(usize),
    /// Another face listens at this place now.
    Taken(usize),
    Bound(Listener),
}

/// What a change came to, in names as they are written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) added: Vec<String>,
    pub(super) changed: Vec<String>,
    pub(super) removed: Vec<String>,
    pub(super) opened: Vec<String>,
    pub(super) closed: Vec<String>,
}

impl Difference {
    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl InForce {
    /// Nothing yet.
    pub(super) fn new(
        ground: Ground,
        context: Context,
        metrics: ConnectMetrics,
        budget: Budget,
        stop: CancellationToken,
    ) -> Self {
        Self {
            ground,
            shown: Faces::default(),
            places: context.workers.spread(),
            budget,
            context,
            metrics,
            stop,
            outer: None,
            clusters: BTreeMap::new(),
            faces: Vec::new(),
        }
    }

    /// Files besides the configuration whose change counts.
    pub(super) fn places(&self) -> BTreeSet<PathBuf> {
        self.outer.iter().flat_map(Outer::files).collect()
    }

    /// Reads, opens and binds what a configuration names and is not there yet.
    ///
    /// # Errors
    /// What cannot be used. Nothing has changed then.
    pub(super) async fn prepare(&self, config: &Loaded<Config>) -> Result<Prepared, StartError> {
        let Loaded { values, base, .. } = config;
        let opened = Outer::open(values, base)?;
        let same_outer = self.outer.as_ref().is_some_and(|outer| outer.is_same(&opened));
        let outer = self.outer.clone().filter(|_| same_outer).unwrap_or(opened);
        let source = Source {
            outer: &outer,
            same_outer,
            base,
            context: &self.context,
            metrics: &self.metrics,
            budget: &self.budget,
        };
        let mut clusters = Vec::with_capacity(values.clusters.len());
        for (name, config) in &values.clusters {
            let old = self.clusters.get(name).map(|held| &held.cluster);
            clusters.push((name.clone(), Cluster::read(name, config, &source, old)?));
        }
        let any = values.faces.iter().any(|face| face.kubernetes.is_some());
        let authority = match &self.ground.authority {
            None if any => {
                let opened = authority::open(&base.join(&values.state), self.context.clock.now());
                Some(Arc::new(opened.map_err(StartError::Authority)?))
            }
            known => known.clone(),
        };
        let mut faces: Vec<PreparedFace> = Vec::with_capacity(values.faces.len());
        let mut used = BTreeSet::new();
        for face in &values.faces {
            // Checked when the file was read.
            let Some((kind, place)) = face.place() else { continue };
            let login = face.login.as_ref().map(|login| Login::open(login, base));
            let login = login.transpose().map_err(StartError::Login)?;
            let same = |open: &Open| open.config == *face && login.is_none();
            let from = if let Some(index) = self.find(&used, same) {
                Origin::Kept(index)
            } else if let Some(index) = self.find(&used, |open| open.has_place_of(face)) {
                Origin::Taken(index)
            } else {
                let place = place.below(base).map_err(|source| StartError::Place { place: place.clone(), source })?;
                let bound = face::bind(&place, face.shared).await;
                Origin::Bound(bound.map_err(|source| StartError::Bind { place, source })?)
            };
            if let Origin::Kept(index) | Origin::Taken(index) = from {
                used.insert(index);
            }
            faces.push(PreparedFace { config: face.clone(), kind, login, from });
        }
        Ok(Prepared { outer, authority, clusters, faces })
    }

    /// A face that is open, and that nobody has claimed.
    fn find(&self, used: &BTreeSet<usize>, fits: impl Fn(&Open) -> bool) -> Option<usize> {
        (0..self.faces.len()).find(|index| !used.contains(index) && fits(&self.faces[*index]))
    }

    /// Puts a change in force. Faces are opened before anything is dialled, so that nobody depends on who starts first.
    pub(super) fn take_over(&mut self, prepared: Prepared) -> Difference {
        let Prepared { outer, authority, clusters, faces } = prepared;
        let mut difference = Difference::default();
        self.outer = Some(outer);
        self.ground.authority = authority;
        let known = clusters.iter().map(|(_, cluster)| cluster.tunnels.clone());
        self.ground.clusters.exchange(known);
        self.wire(faces, &mut difference);
        self.hold(clusters, &mut difference);
        difference
    }

    fn wire(&mut self, faces: Vec<PreparedFace>, difference: &mut Difference) {
        let mut old: Vec<_> = std::mem::take(&mut self.faces).into_iter().map(Some).collect();
        for PreparedFace { config, kind, login, from } in faces {
            let listener = match from {
                Origin::Kept(index) => {
                    self.faces.extend(old[index].take());
                    continue;
                }
                Origin::Taken(index) => {
                    let Some(Open { listener, face, .. }) = old[index].take() else { continue };
                    face.shutdown.hand_over();
                    listener
                }
                Origin::Bound(listener) => Arc::new(listener),
            };
            let bound = Bound::new(&config, kind, Arc::clone(&listener), login, &self.ground);
            difference.opened.push(format!("{} {}", kind.name(), bound.face.address));
            self.faces.push(Open { config, listener, face: Arc::clone(&bound.face) });
            self.context.shutdown.spawn(self.ground.connections.track_future(bound.serve()));
        }
        for Open { face, .. } in old.into_iter().flatten() {
            difference.closed.push(format!("{} {}", face.kind.name(), face.address));
            face.shutdown.end();
        }
        self.shown.store(Arc::new(self.faces.iter().map(|open| Arc::clone(&open.face)).collect()));
    }

    fn hold(&mut self, clusters: Vec<(String, Cluster)>, difference: &mut Difference) {
        let mut old = std::mem::take(&mut self.clusters);
        for (name, cluster) in clusters {
            let mut held = match old.remove(&name) {
                Some(held) => {
                    if held.cluster.config != cluster.config {
                        difference.changed.push(name.clone());
                    }
                    Held { cluster, ..held }
                }
                None => {
                    difference.added.push(name.clone());
                    Held {
                        ways: watch::Sender::new(Ways::clone(&cluster.ways)),
                        cluster,
                        keepers: Vec::new(),
                        bulk: None,
                    }
                }
            };
            held.fit(&self.context, &self.places, &self.stop);
            self.clusters.insert(name, held);
        }
        for (name, held) in old {
            held.keepers.iter().chain(&held.bulk).for_each(CancellationToken::cancel);
            difference.removed.push(name);
        }
    }
}

impl Held {
    /// As many tunnels as are wanted, by the ways that there are. Each stays with one worker, those of one cluster on
    /// different ones.
    fn fit(&mut self, context: &Context, places: &Spread, stop: &CancellationToken) {
        let Cluster { config, tunnels, ways, .. } = &self.cluster;
        self.ways.send_if_modified(|known| {
            let same =
                known.len() == ways.len() && known.iter().zip(ways.iter()).all(|(one, two)| Arc::ptr_eq(one, two));
            if !same {
                known.clone_from(ways);
            }
            !same
        });
        tunnels.wants(config.tunnels);
        while self.keepers.len() > config.tunnels {
            self.keepers.pop().inspect(CancellationToken::cancel);
        }
        while self.keepers.len() < config.tunnels {
            self.keepers.push(Self::place(&self.cluster, tunnels.clone(), &self.ways, (context, places, stop)));
        }
        if self.bulk.is_none() {
            let bulk = tunnels.for_bulk();
            self.bulk = Some(Self::place(&self.cluster, bulk, &self.ways, (context, places, stop)));
        }
    }

    /// Keeps one tunnel from when it is wanted; gives what ends it.
    fn place(
        cluster: &Cluster,
        tunnels: Tunnels,
        ways: &watch::Sender<Ways>,
        (context, places, stop): (&Context, &Spread, &CancellationToken),
    ) -> CancellationToken {
        let stop = stop.child_token();
        let care = Care {
            tunnels: tunnels.clone(),
            actor: cluster.actor.clone(),
            clock: Arc::clone(&context.clock),
            shutdown: context.shutdown.clone(),
            stop: stop.clone(),
        };
        let (place, ways) = (places.place(|_| true), ways.subscribe());
        context.workers.spawn(place.worker(), &context.shutdown, async move {
            tokio::select! {
                biased;
                () = care.stop.cancelled() => {}
                () = care.shutdown.forced() => {}
                () = tunnels.wanted() => keep(care, ways).await,
            }
            drop(place);
        });
        stop
    }
}

impl Open {
    /// Whether it listens where this one should.
    fn has_place_of(&self, config: &FaceConfig) -> bool {
        let place = |config: &FaceConfig| {
            let place = config.place().map(|(_, place)| place.clone())?;
            // The kernel chooses another port each time.
            place.port().is_none_or(|address| address.port() != 0).then_some(place)
        };
        place(&self.config).is_some_and(|here| place(config) == Some(here))
    }
}
