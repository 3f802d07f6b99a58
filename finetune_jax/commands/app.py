r"""Open a page on runs as they go on, photos, mistakes and trials.

    finetune-jax app                            # those below runs/, at http://localhost:7860
    finetune-jax app --runs=runs/sweep --port=8000

Lists runs and studies while they go on. Of a run it shows its curves, labels a photo with Grad-CAM and the training
images that are like it, lists the images that it gets wrong with those whose labels are probably wrong (corrections as
CSV), and plays AutoLR's trials as a movie. Needs no network, listens on this machine alone, and changes nothing.
"""

import os
import sys
from pathlib import Path

from absl import flags

from finetune_jax.commands import command_line
from finetune_jax.errors import UserError

flags.DEFINE_string("runs", "runs", "Folder of run directories, at any depth.")
flags.DEFINE_integer("port", 7860, "Port of the page; 0 takes a free one.", lower_bound=0, upper_bound=65535)
flags.DEFINE_string(
    "host",
    "localhost",
    "Address to listen on. Every other one than this machine's own needs --token, or gets one.",
)
flags.DEFINE_string(
    "token",
    "",
    "Secret that a browser must bring; empty makes one where --host is not this machine alone, auto makes one always, "
    "as is wise on a computer that others use too.",
)


def main() -> int:
    """Serve until Ctrl-C."""
    values = flags.FLAGS
    folder = Path(values.runs).expanduser()
    # Whoever looks at runs leaves the accelerators to those that train.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from finetune_jax.commands.web import guard
    from finetune_jax.runs.catalogue import Catalogue

    catalogue = Catalogue(folder)
    token = values.token
    if token == "auto" or not (token or guard.is_local(values.host)):
        token = guard.new_token()
    if token and not (token.isascii() and token.isprintable() and len(token) >= 16 and ";" not in token):
        raise UserError("--token is too easy to guess: give 16 letters and digits or more, or auto")
    command_line.start_jax()
    from finetune_jax.commands.web.server import Server
    from finetune_jax.commands.web.site import Site

    site = Site(catalogue)
    try:
        server = Server(values.host, values.port, guard.Guard(values.host, token), site.respond)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host={values.host} --port={values.port} cannot be listened on: {reason}; choose another --port, or 0"
        ) from error
    with server:
        name = f"[{values.host}]" if ":" in values.host else values.host
        query = f"/?token={token}" if token else "/"
        print(f"{len(catalogue.runs())} runs below {folder.absolute()}", file=sys.stderr)
        print(f"http://{name}:{server.server_port}{query}  (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    return 0
