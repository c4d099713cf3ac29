//! A place that is bound. A Unix socket is made for its owner alone (mode 0600 from its first moment), in a folder that
//! nobody else can change, and is taken away at the end. What stands in its place is replaced only if it is a socket of
//! our own that nobody answers.
use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, SockFilter, SockRef, Type};
use tokio::net::{TcpListener, UnixListener};

use super::socket::Unplaced;
use crate::connect::place::Place;

/// Clients that may wait to be accepted, as for TCP.
const BACKLOG: i32 = 1024;
/// Only its owner may connect.
const PRIVATE: u32 = 0o600;
/// Group and others may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// In such a folder only an entry's owner may take it away.
const STICKY: u32 = 0o1000;

/// Somebody who listens.
#[derive(Debug)]
pub(crate) struct Listener {
    place: Place,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Port {
        listener: TcpListener,
        shared: bool,
    },
    Socket {
        listener: UnixListener,
        /// Held for its end.
        _file: File,
    },
}

/// A socket in the file system; dropping it takes it away, unless it is another one by now.
#[derive(Debug)]
struct File {
    path: PathBuf,
    identity: (u64, u64),
}

impl Listener {
    /// Listens at a place. Paths are absolute.
    pub(super) async fn bind(place: &Place, shared: bool) -> io::Result<Self> {
        match place {
            Place::Port(address) => {
                let listener = TcpListener::from_std(bind_port(*address, shared)?)?;
                Ok(Self { place: Place::Port(listener.local_addr()?), kind: Kind::Port { listener, shared } })
            }
            Place::Socket(path) => {
                let path = path.clone();
                // Whoever may be there already answers when it likes.
                let bound = tokio::task::spawn_blocking(move || bind_socket(&path)).await;
                let (listener, file) = bound.map_err(io::Error::other)??;
                let listener = UnixListener::from_std(listener)?;
                Ok(Self { place: place.clone(), kind: Kind::Socket { listener, _file: file } })
            }
        }
    }

    /// Where it listens, the port known.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The next client.
    pub(super) async fn accept(&self) -> io::Result<Unplaced> {
        match &self.kind {
            Kind::Port { listener, .. } => {
                let (client, _) = listener.accept().await?;
                // What is written is whole frames or pieces that somebody waits for. A client that has gone is noticed later.
                let _ = client.set_nodelay(true);
                Ok(Unplaced::Tcp(client.into_std()?))
            }
            Kind::Socket { listener, .. } => Ok(Unplaced::Unix(listener.accept().await?.0.into_std()?)),
        }
    }

    /// Lets no further connection begin at a shared port; those that have begun can still be accepted. Who is turned away
    /// asks again in a second, and finds whoever shares the port once this is closed. False if there is nobody to find.
    pub(super) fn turn_away(&self) -> bool {
        let Kind::Port { listener, shared: true } = &self.kind else { return false };
        // Without the filter, clients that come between the last accept and the close are refused.
        let turned = SockRef::from(listener)
            .attach_filter(&NO_BEGINNINGS.map(|(code, jt, jf, k)| SockFilter::new(code, jt, jf, k)));
        turned
            .inspect_err(|error| tracing::warn!(place = %self.place, %error, "clients may be refused at the hand-over"))
            .is_ok()
    }
}

/// A classic filter program on TCP segments: of a segment with SYN and without ACK nothing is kept, of others all. Byte 13
/// has the flags.
const NO_BEGINNINGS: [(u16, u8, u8, u32); 5] = [
    (0x30, 0, 0, 13),       // A = byte 13
    (0x54, 0, 0, 0x12),     // A &= SYN | ACK
    (0x15, 0, 1, 0x02),     // if A is SYN go on, else skip one
    (0x06, 0, 0, 0),        // keep nothing
    (0x06, 0, 0, u32::MAX), // keep all
];

fn bind_port(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // As the standard library does it: connections that linger from before must not keep us from our port.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_socket(path: &Path) -> io::Result<(StdListener, File)> {
    let folder = path.parent().ok_or_else(|| refused("the path has no folder"))?;
    judge_folder(folder)?;
    clear(path)?;
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // On Linux the name in the file system is made with the mode of the socket itself, so that nobody ever sees another.
    let shown = fs::File::from(std::os::fd::OwnedFd::from(socket.try_clone()?));
    shown.set_permissions(fs::Permissions::from_mode(PRIVATE))?;
    socket.bind(&SockAddr::unix(path)?)?;
    let made = fs::symlink_metadata(path)?;
    let file = File { path: path.to_owned(), identity: (made.dev(), made.ino()) };
    if made.mode() & 0o777 & !PRIVATE != 0 {
        return Err(refused("this system makes sockets that others can use"));
    }
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), file))
}

/// Who can change the folder could put a socket of their own in place of ours.
fn judge_folder(folder: &Path) -> io::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let mode = fs::metadata(folder)?.mode();
    if mode & WRITABLE_BY_OTHERS != 0 && mode & STICKY == 0 {
        return Err(refused("others can change the folder: run `chmod go-w` on it, or use another"));
    }
    Ok(())
}

/// Takes away a socket that a connector left behind, and nothing else.
fn clear(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(refused("something that is no socket is in its place: remove it if it is not needed"));
    }
    match StdStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
        // Nobody listens any more. Somebody else's socket in a shared folder cannot be removed by us.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

impl Drop for File {
    fn drop(&mut self) {
        let same = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if same {
            // Left behind, it is found stale by the next connector.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::connect::face::socket::Socket;

    async fn bind(path: &Path) -> io::Result<Listener> {
        Listener::bind(&Place::Socket(path.to_owned()), false).await
    }

    #[tokio::test]
    async fn a_socket_is_for_its_owner_alone_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = bind(&path).await.unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let (client, accepted) = tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
        assert!(client.is_ok() && matches!(accepted, Ok(Unplaced::Unix(_))));
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_port_is_shared_only_if_both_say_so() {
        let port = |address| Place::Port(address);
        let alone = Listener::bind(&port(([127, 0, 0, 1], 0).into()), false).await.unwrap();
        let taken = Listener::bind(alone.place(), true).await.unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let first = Listener::bind(&port(([127, 0, 0, 1], 0).into()), true).await.unwrap();
        let second = Listener::bind(first.place(), true).await;
        assert!(second.is_ok() && Listener::bind(first.place(), false).await.is_err());
        assert!(!alone.turn_away());
    }

    /// Every client is served by one of the two, whenever the first one goes.
    #[tokio::test]
    async fn nobody_is_lost_when_a_shared_port_is_left_to_another() {
        let old = Listener::bind(&Place::Port(([127, 0, 0, 1], 0).into()), true).await.unwrap();
        let new = Listener::bind(old.place(), true).await.unwrap();
        let address = old.place().port().unwrap();
        let mut clients = tokio::task::JoinSet::new();
        let mut call = || {
            clients.spawn(async move {
                let mut client = tokio::net::TcpStream::connect(address).await?;
                tokio::io::AsyncReadExt::read_u8(&mut client).await
            });
        };
        async fn serve(listener: &Listener) {
            loop {
                let Ok(Socket::Tcp(mut client)) = listener.accept().await.unwrap().place() else {
                    panic!("a TCP client")
                };
                tokio::io::AsyncWriteExt::write_u8(&mut client, 7).await.unwrap();
            }
        }
        // Some have connected and were not accepted yet when the old one turns to go.
        (0..64).for_each(|_| call());
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
        assert!(old.turn_away());
        (0..64).for_each(|_| call());
        let leaving = async {
            let _ = tokio::time::timeout(std::time::Duration::from_millis(200), serve(&old)).await;
            drop(old);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = leaving => {}
            () = serve(&new) => {}
            results = clients.join_all() => {
                assert_eq!(results.len(), 128);
                assert!(results.iter().all(|result| matches!(result, Ok(7))), "{results:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        let living = bind(&path).await.unwrap();
        assert_eq!(bind(&path).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(living);
    }

    #[tokio::test]
    async fn whatever_else_is_in_its_place_stays_there() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("file"), folder.path().join("other.sock"));
        fs::write(&file, "kept").unwrap();
        drop(StdListener::bind(&other).unwrap());
        let (to_file, to_socket, dangling) =
            (folder.path().join("to-file"), folder.path().join("to-socket"), folder.path().join("dangling"));
        symlink(&file, &to_file).unwrap();
        symlink(&other, &to_socket).unwrap();
        symlink(folder.path().join("nothing"), &dangling).unwrap();
        for path in [&file, &to_file, &to_socket, &dangling, &folder.path().to_owned()] {
            assert!(bind(path).await.is_err(), "{}", path.display());
            assert!(fs::symlink_metadata(path).is_ok(), "{}", path.display());
        }
        assert_eq!(fs::read(&file).unwrap(), b"kept");
        assert!(other.exists() && !folder.path().join("nothing").exists());
    }

    #[tokio::test]
    async fn a_folder_that_others_can_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        for (mode, taken) in [(0o777, false), (0o770, false), (0o1777, true), (0o755, true)] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(bind(&path).await.is_ok(), taken, "{mode:o}");
        }
        assert!(bind(&folder.path().join("none/api.sock")).await.is_err());
    }

    #[tokio::test]
    async fn a_socket_that_has_taken_its_place_meanwhile_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = bind(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        let other = bind(&path).await.unwrap();
        drop(listener);
        assert!(path.exists());
        drop(other);
    }
}
