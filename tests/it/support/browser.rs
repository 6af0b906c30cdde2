//! Headless Chromium, driven over its DevTools protocol.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use super::wait::PATIENCE;

/// Programs that are tried, the smallest first.
const PROGRAMS: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];

/// A browser with one page. It ends with this value.
pub struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    next: u64,
    /// What went wrong on the page.
    pub errors: Vec<String>,
    /// Its profile.
    _home: tempfile::TempDir,
}

impl Browser {
    /// Starts one; `None` if there is none on this machine.
    pub fn start() -> Option<Self> {
        let home = tempfile::tempdir().expect("a folder for the browser");
        let mut child = PROGRAMS.iter().find_map(|program| {
            Command::new(program)
                .args([
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                    "--no-first-run",
                ])
                .args(["--disable-extensions", "--hide-scrollbars", "--remote-debugging-port=0"])
                .arg(format!("--user-data-dir={}", home.path().display()))
                .arg("about:blank")
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                // The program may be a script around the browser: they end together.
                .process_group(0)
                .spawn()
                .ok()
        })?;
        let mut said = BufReader::new(child.stderr.take().expect("its output"));
        let address = loop {
            let mut line = String::new();
            assert_ne!(said.read_line(&mut line).expect("text"), 0, "the browser ended at once");
            if let Some((_, rest)) = line.split_once("DevTools listening on ws://") {
                break rest.split('/').next().expect("an address").to_owned();
            }
        };
        // What it says later is of no interest, but must go somewhere.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let url = page(&address);
        let stream = TcpStream::connect(&address).expect("its port");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let (socket, _) = tungstenite::client::client(url.as_str(), stream).expect("a WebSocket");
        let mut browser = Self { child, socket, next: 0, errors: Vec::new(), _home: home };
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Calls a method of the protocol; gives its result.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let request = json!({"id": id, "method": method, "params": parameters});
        self.socket.send(Message::text(request.to_string())).expect("the browser lives");
        loop {
            let message = self.socket.read().unwrap_or_else(|error| panic!("{method}: {error}"));
            let Message::Text(text) = message else { continue };
            let answer: Value = serde_json::from_str(&text).expect("JSON");
            self.note(&answer);
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// Remembers what a page must not do.
    fn note(&mut self, event: &Value) {
        let is_wrong = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => event["params"]["entry"]["level"] == "error",
            _ => false,
        };
        if is_wrong {
            self.errors.push(event["params"].to_string());
        }
    }

    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// The value of an expression on the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let result = self.call(
            "Runtime.evaluate",
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true}),
        );
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn until(&mut self, expression: &str) {
        let began = Instant::now();
        while self.eval(expression) != true {
            if began.elapsed() > PATIENCE {
                let body = self.eval("document.body.innerText.slice(0, 3000)");
                panic!("never: {expression}\n{body}\n{:?}", self.errors);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses a key as a user would.
    pub fn key(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            "ArrowRight" => (39, None),
            "ArrowLeft" => (37, None),
            other => panic!("{other}"),
        };
        let mut down = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code});
        if let Some(text) = text {
            down["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", down);
        self.call(
            "Input.dispatchKeyEvent",
            json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code}),
        );
    }

    /// Types into what has the focus.
    pub fn text(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// The size of the window.
    pub fn size(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// What the user's system prefers: `light` or `dark`.
    pub fn prefer(&mut self, scheme: &str) {
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", feature);
    }

    /// Keeps a picture of the window, for people to look at; gives its bytes.
    pub fn picture(&mut self, name: &str) -> Vec<u8> {
        let result = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let data = result["data"].as_str().expect("a picture");
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).expect("base64");
        let folder = std::env::var_os("SIDEBOLT_TEST_PICTURES").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/.work/pictures"),
            PathBuf::from,
        );
        std::fs::create_dir_all(&folder).expect("a folder for pictures");
        std::fs::write(folder.join(format!("{name}.png")), &bytes).expect("a file");
        bytes
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// The WebSocket of the browser's first page.
fn page(address: &str) -> String {
    let began = Instant::now();
    loop {
        let mut stream = TcpStream::connect(address).expect("its port");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let request = format!("GET /json/list HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        // It may keep the connection open behind its answer.
        let mut part = [0; 4096];
        let list: Value = loop {
            let read = stream.read(&mut part).expect("an answer");
            answer.push_str(&String::from_utf8_lossy(&part[..read]));
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            match serde_json::from_str(body) {
                Ok(list) => break list,
                Err(_) => assert_ne!(read, 0, "{answer}"),
            }
        };
        let pages = list.as_array().into_iter().flatten().filter(|target| target["type"] == "page");
        if let Some(url) = pages.filter_map(|page| page["webSocketDebuggerUrl"].as_str()).next() {
            return url.to_owned();
        }
        assert!(began.elapsed() < PATIENCE, "{list}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
