//! Connections that the users of a core share, as a service client's do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use hyperscale_plan::Connections;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connection::Connection;
use crate::request::Origin;

/// A pool for each origin; none if users have connections of their own.
#[derive(Debug)]
pub(crate) struct Pools {
    size: Option<usize>,
    pools: RefCell<BTreeMap<(String, u16, bool), Rc<Pool>>>,
}

#[derive(Debug)]
struct Pool {
    idle: RefCell<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

/// The right to use a connection of a pool.
#[derive(Debug)]
pub(crate) struct Permit {
    pool: Rc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Pools {
    pub(crate) fn new(connections: Connections) -> Self {
        let size = match connections {
            Connections::PerVu => None,
            Connections::Pool { size } => Some(usize::try_from(size).unwrap_or(1).max(1)),
        };
        Self { size, pools: RefCell::default() }
    }

    /// Waits for the right to use a connection; `None` if nothing is shared.
    pub(crate) async fn permit(&self, origin: &Origin) -> Option<Permit> {
        let size = self.size?;
        let key = (origin.host.clone(), origin.port, origin.is_tls);
        let pool = {
            let mut pools = self.pools.borrow_mut();
            let pool = pools.entry(key).or_insert_with(|| {
                Rc::new(Pool { idle: RefCell::default(), permits: Arc::new(Semaphore::new(size)) })
            });
            Rc::clone(pool)
        };
        // The semaphore is never closed; if it were, users would share nothing.
        let permit = Arc::clone(&pool.permits).acquire_owned().await.ok()?;
        Some(Permit { pool, _permit: permit })
    }
}

impl Permit {
    /// An idle connection, if there is one.
    pub(crate) fn take(&self) -> Option<Connection> {
        self.pool.idle.borrow_mut().pop()
    }

    /// Gives a connection to whoever comes next.
    pub(crate) fn give(&self, connection: Connection) {
        if connection.is_reusable() {
            self.pool.idle.borrow_mut().push(connection);
        }
    }
}
