//! A target that remembers each path that it was asked for. Each login gets another token.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

const LOGIN: &str = "/login";

pub(crate) struct Recorder {
    pub(crate) url: String,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    /// Serves until the test is over.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let paths = Arc::<Mutex<Vec<String>>>::default();
        let recorded = Arc::clone(&paths);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, paths) = (stream.unwrap(), Arc::clone(&recorded));
                // A client that is killed breaks its connection, which is no failure here.
                std::thread::spawn(move || drop(serve(&stream, &paths)));
            }
        });
        Self { url, paths }
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.paths.lock().unwrap().clone()
    }
}

fn serve(stream: &TcpStream, paths: &Mutex<Vec<String>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut writer, mut lines) = (stream, BufReader::new(stream).lines());
    while let Some(request) = lines.next() {
        let path = request?.split(' ').nth(1).unwrap_or_default().to_owned();
        while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
        let mut paths = paths.lock().unwrap();
        let is_login = path == LOGIN;
        paths.push(path);
        let logins = paths.iter().filter(|known| *known == LOGIN).count();
        drop(paths);
        let body = match is_login {
            true => format!("{{\"token\": \"token-{logins}\"}}"),
            false => "ok".to_owned(),
        };
        let length = body.len();
        write!(writer, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")?;
    }
    Ok(())
}
