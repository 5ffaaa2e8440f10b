//! The XDP program on a NIC, and the BPF maps through which it is told what to do.
//!
//! One [`Steering`] per NIC: the maps are the XDP half of its LAN's forwarding database.

pub mod layout;

use crate::ether::Address;
use crate::ether::Mac;
use crate::sys::ringbuf::RingBuffer;
use crate::sys::shared::{Shared, SteerShared};
use layout::{COPY_RING, COUNTS, Count, MOVES_RING, PortEntry, address_key, mac_word};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, Object, ObjectBuilder};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The compiled program, as build.rs left it.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// Records that a worker takes from its ring buffer at a time.
pub const COPY_BATCH: usize = 32;

/// Why the program could not be loaded or told something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the program.
    #[error(
        "the kernel does not load the XDP program: {0}. It needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN (or root), kernel 6.1 or newer, and no lockdown"
    )]
    Load(libbpf_rs::Error),
    /// A map could not be made or changed.
    #[error("BPF map {map}: {source}")]
    Map {
        /// Its name in bpf/steer.bpf.c.
        map: &'static str,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// A map could not be mapped into memory.
    #[error("BPF map {map}: {source}")]
    Mapping {
        /// Its name in bpf/steer.bpf.c.
        map: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The object and this code do not belong together.
    #[error("the XDP program has no {0}")]
    Missing(&'static str),
}

/// What is fixed when the program is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// AF_XDP sockets on each queue.
    pub workers: usize,
    /// RX queues that the NIC can have.
    pub queues: usize,
    /// The host does not use this NIC: broadcast and multicast frames need not reach it.
    pub exclusive: bool,
    /// Dynamic entries that there is room for.
    pub dynamic_entries: usize,
    /// Static entries that there is room for.
    pub static_entries: usize,
}

/// The loaded program and its maps.
pub struct Steering {
    object: Object,
    rings: MapHandle,
    directory: MapHandle,
    copy_rings: Vec<MapHandle>,
    tables: Arc<Tables>,
}

/// What is changed and read while the program runs, from any thread.
pub struct Tables {
    dynamic_fdb: MapHandle,
    static_fdb: MapHandle,
    counters: MapHandle,
    /// The value that is shared with the program.
    pub shared: Shared<SteerShared>,
}

impl Steering {
    /// Loads the program. It passes everything to the host until it is attached and its
    /// shared value says `live`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn load(options: &Options) -> Result<Self, Error> {
        Self::load_object(OBJECT, options)
    }

    /// Loads the program from an object made of bpf/steer.bpf.c in another way, as benchmarks need it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn load_object(object: &[u8], options: &Options) -> Result<Self, Error> {
        let mut open = ObjectBuilder::default()
            .name("iou_fast")
            .and_then(|builder| builder.open_memory(object))
            .map_err(Error::Load)?;
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            let sized = match name.as_str() {
                "rings" => map.set_max_entries((options.queues * options.workers) as u32),
                "dynamic_fdb" => map.set_max_entries(options.dynamic_entries as u32),
                "static_fdb" => map.set_max_entries(options.static_entries as u32),
                _ if name.ends_with(".rodata") => {
                    let mut value = [0; 8];
                    value[..4].copy_from_slice(&(options.workers as u32).to_ne_bytes());
                    value[4..].copy_from_slice(&u32::from(options.exclusive).to_ne_bytes());
                    map.set_initial_value(&value)
                }
                _ => Ok(()),
            };
            sized.map_err(Error::Load)?;
        }
        let object = open.load().map_err(Error::Load)?;
        let map = |name: &'static str| handle(&object, name);
        let (rings, dynamic_fdb, static_fdb) = (map("rings")?, map("dynamic_fdb")?, map("static_fdb")?);
        let (counters, directory) = (map("counters_map")?, map("copy_rings")?);
        let shared_map = map("shared_map")?;
        let shared =
            Shared::map(shared_map.as_fd()).map_err(|source| Error::Mapping { map: "shared_map", source })?;
        let mut copy_rings = Vec::with_capacity(options.workers);
        for worker in 0..options.workers as u32 {
            let ring = ring_buffer().map_err(|source| Error::Map { map: "copies", source })?;
            enter(&directory, worker, &ring)?;
            copy_rings.push(ring);
        }
        let tables = Arc::new(Tables { dynamic_fdb, static_fdb, counters, shared });
        // libbpf reads the number of CPUs from a file, once: now, while there is a descriptor for it.
        tables.counts()?;
        Ok(Self { object, rings, directory, copy_rings, tables })
    }

    /// The program, to attach it.
    ///
    /// # Errors
    /// [`Error::Missing`] if the object has none, which a build would have to have broken.
    pub fn program(&self) -> Result<impl AsFd + use<'_>, Error> {
        self.object.progs().find(|program| program.name() == "steer").ok_or(Error::Missing("program steer"))
    }

    /// The loaded object, for tests that run the program or read its BTF.
    #[must_use]
    pub const fn object(&self) -> &Object {
        &self.object
    }

    /// What is changed and read while the program runs.
    #[must_use]
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// Sends what is for `worker` and arrives on `queue` to `socket`.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn set_ring(
        &self,
        options: &Options,
        queue: usize,
        worker: usize,
        socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let index = (queue * options.workers + worker) as u32;
        self.rings
            .update(&index.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes(), MapFlags::ANY)
            .map_err(|source| Error::Map { map: "rings", source })
    }

    /// Waits until no run of the program goes on that began before, and what those redirected is in its ring.
    ///
    /// After a change in a map of maps the kernel waits for running programs before it returns (`maybe_wait_bpf_programs` in
    /// kernel/bpf/syscall.c), by a grace period of RCU; a driver hands what a batch of runs redirected to the rings within
    /// the same section. So a ring buffer is put where it is already.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn settle(&self) -> Result<(), Error> {
        self.copy_rings.first().map_or(Ok(()), |ring| enter(&self.directory, 0, ring))
    }

    /// The ring buffer into which broadcast and multicast frames are copied for `worker`.
    ///
    /// # Errors
    /// [`Error::Mapping`].
    pub fn copies(&self, worker: usize) -> Result<(RingBuffer, BorrowedFd<'_>), Error> {
        let map = self.copy_rings.get(worker).ok_or(Error::Missing("ring buffer for this worker"))?;
        let ring = RingBuffer::new(map.as_fd(), COPY_RING as usize, COPY_BATCH)
            .map_err(|source| Error::Mapping { map: "copies", source })?;
        Ok((ring, map.as_fd()))
    }

    /// The ring buffer that reports addresses that moved to the wire, and a descriptor to wait on.
    ///
    /// # Errors
    /// [`Error::Mapping`].
    pub fn moves(&self) -> Result<(RingBuffer, MapHandle), Error> {
        let map = handle(&self.object, "moves")?;
        let ring = RingBuffer::new(map.as_fd(), MOVES_RING, 256)
            .map_err(|source| Error::Mapping { map: "moves", source })?;
        Ok((ring, map))
    }
}

impl Tables {
    /// `address` is at `entry`.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn insert_dynamic(&self, address: &Address, entry: &PortEntry) -> Result<(), Error> {
        self.shared.any_dynamic.store(1, Relaxed);
        self.dynamic_fdb
            .update(&address_key(address), &entry.bytes(), MapFlags::ANY)
            .map_err(|source| Error::Map { map: "dynamic_fdb", source })
    }

    /// Removes the entry of `address`. If there is none, that is no error.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn remove_dynamic(&self, address: &Address) -> Result<(), Error> {
        forget(self.dynamic_fdb.delete(&address_key(address)))
            .map_err(|source| Error::Map { map: "dynamic_fdb", source })
    }

    /// Whether `address` has an entry. What cannot be read counts as there.
    #[must_use]
    pub fn has_dynamic(&self, address: &Address) -> bool {
        !matches!(self.dynamic_fdb.lookup(&address_key(address), MapFlags::ANY), Ok(None))
    }

    /// Whether `mac` has an entry. What cannot be read counts as there.
    #[must_use]
    pub fn has_static(&self, mac: Mac) -> bool {
        !matches!(self.static_fdb.lookup(&mac_word(mac).to_ne_bytes(), MapFlags::ANY), Ok(None))
    }

    /// `mac` is at `entry`, in any VLAN.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn insert_static(&self, mac: Mac, entry: &PortEntry) -> Result<(), Error> {
        self.static_fdb
            .update(&mac_word(mac).to_ne_bytes(), &entry.bytes(), MapFlags::ANY)
            .map_err(|source| Error::Map { map: "static_fdb", source })
    }

    /// Removes the entry of `mac`. If there is none, that is no error.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn remove_static(&self, mac: Mac) -> Result<(), Error> {
        forget(self.static_fdb.delete(&mac_word(mac).to_ne_bytes()))
            .map_err(|source| Error::Map { map: "static_fdb", source })
    }

    /// What the program has counted, by [`Count`].
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn counts(&self) -> Result<[u64; COUNTS], Error> {
        let per_cpu = self
            .counters
            .lookup_percpu(&0u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(|source| Error::Map { map: "counters_map", source })?
            .unwrap_or_default();
        let mut sums = [0u64; COUNTS];
        for cpu in per_cpu {
            for (sum, bytes) in sums.iter_mut().zip(cpu.chunks_exact(8)) {
                *sum += bytes.try_into().map_or(0, u64::from_ne_bytes);
            }
        }
        Ok(sums)
    }

    /// One of the counters.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn count(&self, which: Count) -> Result<u64, Error> {
        Ok(self.counts()?[which as usize])
    }
}

/// Makes `ring` the ring buffer of `worker`.
fn enter(directory: &MapHandle, worker: u32, ring: &MapHandle) -> Result<(), Error> {
    directory
        .update(&worker.to_ne_bytes(), &ring.as_fd().as_raw_fd().to_ne_bytes(), MapFlags::ANY)
        .map_err(|source| Error::Map { map: "copy_rings", source })
}

fn handle(object: &Object, name: &'static str) -> Result<MapHandle, Error> {
    let map = object.maps().find(|map| map.name() == name).ok_or(Error::Missing(name))?;
    MapHandle::try_from(&map).map_err(|source| Error::Map { map: name, source })
}

fn ring_buffer() -> Result<MapHandle, libbpf_rs::Error> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    MapHandle::create(MapType::RingBuf, Some("copies"), 0, 0, COPY_RING, &options)
}

fn forget(deleted: Result<(), libbpf_rs::Error>) -> Result<(), libbpf_rs::Error> {
    match deleted {
        Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
