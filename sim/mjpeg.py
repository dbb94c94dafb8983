"""Camera frames as MJPEG streams over HTTP on this host, which OpenCV opens like those of an IP camera."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

HOST = "127.0.0.1"
QUALITY = 95  # of JPEG, 0 to 100
IDLE_S = 0.5  # how often a stream without frames looks whether to stop
BOUNDARY = b"frame"


class MjpegServer:
    """Serves ``http://127.0.0.1:PORT/NAME.mjpg`` for each name; a slow reader skips frames, a new one starts anew.

    ``shown`` counts frames and ``sent_bytes`` those of their JPEGs, by name.
    """

    def __init__(self, names: Sequence[str], port: int = 0, quality: int = QUALITY) -> None:
        self.shown: Counter[str] = Counter()
        self.sent_bytes: Counter[str] = Counter()
        self._quality = quality
        self._newest: dict[str, bytes] = dict.fromkeys(names, b"")
        self._arrived = threading.Condition()
        self._stop = False
        self._server = _Server((HOST, port), _Handler)
        self._server.streams = self
        self._thread = threading.Thread(target=self._server.serve_forever, name="mjpeg", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is served."""
        return int(self._server.server_address[1])

    def url(self, name: str) -> str:
        """Address of a stream."""
        return f"http://{HOST}:{self.port}/{name}.mjpg"

    def show(self, name: str, image: np.ndarray) -> None:
        """The next frame of a stream, BGR uint8 [H, W, 3]."""
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, self._quality])
        with self._arrived:
            self._newest[name] = encoded.tobytes()
            self.shown[name] += 1
            self.sent_bytes[name] += len(self._newest[name])
            self._arrived.notify_all()

    def has(self, name: str) -> bool:
        """Whether there is a stream of this name."""
        return name in self._newest

    def wait_for_frame(self, name: str, seen: int) -> tuple[int, bytes]:
        """Count and JPEG of a stream's newest frame when it is newer than number ``seen``; (-1, b"") after the end."""
        with self._arrived:
            while not self._stop and self.shown[name] <= seen:
                self._arrived.wait(IDLE_S)
            return (-1, b"") if self._stop else (self.shown[name], self._newest[name])

    def close(self) -> None:
        """End every stream."""
        with self._arrived:
            self._stop = True
            self._arrived.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    streams: MjpegServer


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """Stream until either side goes."""
        streams, name = self.server.streams, self.path.strip("/").removesuffix(".mjpg")
        if not streams.has(name):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY.decode()}")
        self.end_headers()
        seen = 0
        try:
            while True:
                seen, jpeg = streams.wait_for_frame(name, seen)
                if seen < 0:
                    return
                head = b"--%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (BOUNDARY, len(jpeg))
                self.wfile.write(head + jpeg + b"\r\n")
        except OSError:
            return  # the reader has gone

    def log_message(self, *_: object) -> None:
        """Requests are not worth a line."""
