"""A proxy in front of an OpenAI-compatible server that injects faults; alone, it answers itself.

``python -m tests.faulty_proxy --port 8001 --upstream http://127.0.0.1:8000 --faults 429,500,cut``
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FaultyProxy:
    """Answers requests in turn by `faults`: a status, ``slow``, ``cut`` or ``ok``; then all ok.

    `reply` gives the text for a prompt, or status and body (bytes as they are) of the whole reply.

    `asked` lists the body of every request that came, `answered` of those that got an answer.
    """

    def __init__(self, faults=(), upstream=None, reply=None, slow=3.0, port=0):
        self.faults, self.upstream, self.slow = list(faults), upstream, slow
        self.reply = reply or (lambda prompt: f"About {prompt}.\nThe final answer is 4")
        self.asked, self.answered, self.keys, self.times = [], [], [], []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.server.daemon_threads = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def _handler(self):
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                body = json.loads(raw)
                with proxy.lock:
                    proxy.asked.append(body)
                    proxy.times.append(time.monotonic())
                    proxy.keys.append(self.headers.get("Authorization"))
                    fault = proxy.faults.pop(0) if proxy.faults else "ok"
                    proxy.under_way += 1
                    proxy.most_under_way = max(proxy.most_under_way, proxy.under_way)
                try:
                    self.answer(fault, raw, body)
                finally:
                    with proxy.lock:
                        proxy.under_way -= 1

            def answer(self, fault, raw, body):
                if fault == "slow":
                    time.sleep(proxy.slow)
                    self.close_connection = True
                elif fault == "cut":
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    self.wfile.write(b'{"id": "x", "cho')
                    self.wfile.flush()
                    self.close_connection = True
                elif fault != "ok":
                    echo = self.headers.get("Authorization", "")
                    self.send(int(fault), {"error": {"message": f"fault for {echo}"}})
                else:
                    status, reply = proxy.forward(self.path, raw, body)
                    with proxy.lock:
                        proxy.answered.append(body)
                    self.send(status, reply)

            def send(self, status, reply):
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0.05")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler

    def forward(self, path, raw, body):
        """Return status and reply of the upstream server, or an answer of one's own."""
        if self.upstream is None:
            text = self.reply(body["messages"][-1]["content"])
            if isinstance(text, tuple):
                return text
            finish = "length" if text.endswith("...") else "stop"
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            reply = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"]}
            return 200, {**reply, "choices": [choice]}
        address = urllib.parse.urlparse(self.upstream)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=300)
        connection.request("POST", path, raw, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--faults", default="")
    parser.add_argument("--slow", type=float, default=30.0)
    arguments = parser.parse_args()
    faults = [fault for fault in arguments.faults.split(",") if fault]
    proxy = FaultyProxy(faults, arguments.upstream, slow=arguments.slow, port=arguments.port)
    with proxy:
        try:
            while True:
                time.sleep(1)
                print(f"asked {len(proxy.asked)}, answered {len(proxy.answered)}", flush=True)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
