//! `hyperscale demo`.

use hyperscale_target::Target;

use crate::args::{DemoArgs, LoadArgs};
use crate::exit::{Exit, Failure};
use crate::{follow, run, source};

pub(crate) async fn demo(mut args: DemoArgs) -> Result<Exit, Failure> {
    let cannot = |error: std::io::Error| {
        Failure::caused(Exit::Io, "the demo's target cannot listen on the loopback", &error)
    };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let target = Target::bind(address, None).await.map_err(cannot)?;
    let url = format!("http://{}/json", target.address().map_err(cannot)?);
    tokio::spawn(target.serve());
    follow::say(&format!("target at {url}"));
    let load = LoadArgs {
        vus: None,
        duration: Some(args.duration),
        rate: Some("500/s".to_owned()),
        iterations: None,
        method: None,
        headers: Vec::new(),
        body: None,
        insecure: false,
        sets: Vec::new(),
        cores: None,
    };
    if !args.outputs.outs.iter().any(|out| out.starts_with("html=")) {
        args.outputs.outs.push("html=hyperscale-demo.html".to_owned());
    }
    run::run_here(source::of_url(&url, &load)?, None, &args.outputs).await
}
