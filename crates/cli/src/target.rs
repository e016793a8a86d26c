//! `hyperscale target`.

use std::io::Write as _;
use std::net::SocketAddr;

use hyperscale_target::{Target, acceptor};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::TargetArgs;
use crate::exit::{Exit, Failure};

pub(crate) fn serve(args: TargetArgs) -> Result<Exit, Failure> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = args.threads {
        builder.worker_threads(threads.max(1));
    }
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::internal("no runtime starts", &error))?;
    runtime.block_on(listen(args))
}

async fn listen(args: TargetArgs) -> Result<Exit, Failure> {
    let tls = if args.tls {
        let names = vec!["localhost".to_owned(), args.listen.ip().to_string()];
        let (acceptor, pem) = acceptor(names)
            .map_err(|error| Failure::internal("the target has no certificate", &error))?;
        if let Some(path) = &args.tls_ca {
            std::fs::write(path, pem).map_err(|error| {
                Failure::caused(Exit::Io, &format!("cannot write {}", path.display()), &error)
            })?;
        }
        Some(acceptor)
    } else {
        None
    };
    let scheme = if args.tls { "https" } else { "http" };
    let target =
        Target::bind(args.listen, tls).await.map_err(|error| cannot(args.listen, &error))?;
    let address = target.address().map_err(|error| cannot(args.listen, &error))?;
    // Whoever started this for a script waits for the line.
    drop(writeln!(std::io::stdout(), "listening on {scheme}://{address}"));
    let mut terminated = signal(SignalKind::terminate())
        .map_err(|error| Failure::internal("signals cannot be heard", &error))?;
    tokio::select! {
        () = target.serve() => {}
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    Ok(Exit::Passed)
}

fn cannot(address: SocketAddr, error: &std::io::Error) -> Failure {
    Failure::caused(Exit::ApiFailed, &format!("cannot listen on {address}"), error)
}
