"""Settings are remembered without losing comments; the guard lets nothing credentialed out, however it is dressed."""

import os
import stat

import pytest

from cxrbench.config import DataEntry, forget, load_config, own_entry, remember
from cxrbench.errors import CxrbenchError, Exit
from cxrbench.privacy import MARKER, claim_folder, close_tree, guard_endpoint, is_claimed, private_file, private_folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_is_known_before_anything_is_added(home):
    config = load_config()
    assert config.data == {}
    assert config.file == home / "config" / "cxrbench" / "cxrbench.toml"


def test_what_is_added_is_known_afterwards_and_comments_stay(home):
    file = home / "cxrbench.toml"
    file.write_text('# ours\n[trusted_endpoints]\n"judge.example" = "contract 7"  # signed\n')
    remember(file, "iu-xray", DataEntry({"reports": (home / "a", home / "b")}, prepared=home / "p"))
    config = load_config(file)
    assert config.data["iu-xray"].roots["reports"] == (home / "a", home / "b")
    assert config.data["iu-xray"].prepared == home / "p"
    assert config.trusted_endpoints == {"judge.example": "contract 7"}
    assert "# ours" in file.read_text()
    assert "# signed" in file.read_text()


def test_the_working_directory_wins_over_the_user(home):
    remember(home / "config/cxrbench/cxrbench.toml", "iu-xray", DataEntry({"reports": (home / "user",)}))
    remember(home / "cxrbench.toml", "iu-xray", DataEntry({"reports": (home / "local",)}))
    assert load_config().data["iu-xray"].roots["reports"] == (home / "local",)


def test_a_nearer_file_changes_the_keys_it_names_and_no_others(home):
    user = home / "config/cxrbench/cxrbench.toml"
    remember(user, "iu-xray", DataEntry({"reports": (home / "r",), "images": (home / "i",)}, prepared=home / "p"))
    remember(home / "cxrbench.toml", "iu-xray", DataEntry({"images": (home / "local",)}, image_cache=home / "c"))
    entry = load_config().data["iu-xray"]
    assert entry.roots == {"reports": (home / "r",), "images": (home / "local",)}
    assert (entry.prepared, entry.image_cache) == (home / "p", home / "c")
    assert own_entry(home / "cxrbench.toml", "iu-xray").roots == {"images": (home / "local",)}
    assert own_entry(home / "none.toml", "iu-xray") == DataEntry()


TRUST = '[trusted_endpoints]\n"judge.example" = "contract 7"\n'


def test_a_folder_cannot_bring_endpoints_to_be_trusted(home):
    (home / "cxrbench.toml").write_text(TRUST)
    with pytest.raises(CxrbenchError, match="trusted_endpoints") as caught:
        load_config()
    assert str(home / "config/cxrbench/cxrbench.toml") in caught.value.fix
    assert load_config(home / "cxrbench.toml").trusted_endpoints == {"judge.example": "contract 7"}


def test_the_users_own_file_may_trust_also_when_it_lies_in_the_working_directory(home, monkeypatch):
    user = home / "config/cxrbench/cxrbench.toml"
    user.parent.mkdir(parents=True)
    user.write_text(TRUST)
    assert load_config().trusted_endpoints == {"judge.example": "contract 7"}
    monkeypatch.chdir(user.parent)
    assert load_config().trusted_endpoints == {"judge.example": "contract 7"}


def test_relative_paths_start_where_the_settings_file_is(home, monkeypatch):
    file = home / "project" / "cxrbench.toml"
    file.parent.mkdir()
    file.write_text('[data.x]\nreports = ["a", "../b"]\nimages = "/abs"\nprepared = "p"\n')
    monkeypatch.chdir(file.parent)
    for config in (load_config(), load_config(file)):
        assert config.data["x"].roots["reports"] == (home / "project/a", home / "b")
        assert config.data["x"].roots["images"][0].as_posix() == "/abs"
        assert config.data["x"].prepared == home / "project/p"
    monkeypatch.chdir(home)
    assert load_config(file.relative_to(home)).data["x"].prepared == home / "project/p"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[data", "not valid TOML"),
        ("[dta.x]\n", "the table 'dta' is not known"),
        ("data = 5\n", "expected a table"),
        ("data = []\n", "expected a table"),
        ("trusted_endpoints = 5\n", "expected a table"),
        ("[trusted_endpoints]\n'a.example' = 5\n", "expected the agreement"),
        ("[trusted_endpoints]\n'a.example' = ' '\n", "expected the agreement"),
        ("[data]\nx = 5\n", "expected a table"),
        ("[data.x]\nreprots = 'a'\n", "the key 'reprots' is not known"),
        ("[data.x]\nreports = 3\n", "expected a path"),
        ("[data.x]\nreports = ['a', 3]\n", "expected a path"),
        ("[data.x]\nreports = []\n", "expected a path"),
        ("[data.x]\nreports = ''\n", "expected a path"),
        ('[data.x]\nreports = "a\\u0000b"\n', "expected a path"),
        ("[data.x]\nreports = '~nobody-of-this-name/a'\n", "home"),
        ("[data.x]\nprepared = ['a', 'b']\n", "expected one path"),
        ("[data.x]\nimage_cache = []\n", "expected"),
    ],
)
def test_a_broken_settings_file_is_named(home, text, what):
    (home / "mine.toml").write_text(text)
    with pytest.raises(CxrbenchError, match=what) as caught:
        load_config(home / "mine.toml")
    assert "mine.toml" in caught.value.where
    (home / "cxrbench.toml").write_text(text)
    with pytest.raises(CxrbenchError):
        load_config()


@pytest.mark.parametrize("body", [b"\xff", None])
def test_a_settings_file_that_cannot_be_read_is_named(home, body):
    file = home / "mine.toml"
    file.write_bytes(body) if body is not None else file.mkdir()
    with pytest.raises(CxrbenchError, match="cannot be read") as caught:
        load_config(file)
    assert str(file) in caught.value.where


COMMENTED = """\
# ours
[data.x]
reports = "relative"  # the export of May
prepared = "{p}"  # old
image_cache = "{p}/images-full"
"""


def test_remembering_changes_only_what_is_new(home):
    file = home / "cxrbench.toml"
    file.write_text(COMMENTED.format(p=home / "p"))
    remember(file, "x", DataEntry({"reports": (home / "relative",), "images": (home / "i",)}, prepared=home / "q"))
    text = file.read_text()
    assert 'reports = "relative"  # the export of May' in text
    assert "# ours" in text
    assert "image_cache" not in text
    assert load_config().data["x"] == DataEntry(
        {"reports": (home / "relative",), "images": (home / "i",)}, prepared=home / "q"
    )


def test_what_was_deleted_is_forgotten_and_nothing_else(home):
    file, user = home / "cxrbench.toml", home / "config/cxrbench/cxrbench.toml"
    file.write_text(COMMENTED.format(p=home / "p"))
    remember(user, "y", DataEntry({"reports": (home / "r",)}, prepared=home / "p", image_cache=home / "kept"))
    forget(None, [home / "p"])
    assert file.read_text() == '# ours\n[data.x]\nreports = "relative"  # the export of May\n'
    assert own_entry(user, "y") == DataEntry({"reports": (home / "r",)}, image_cache=home / "kept")


def test_settings_that_are_a_link_stay_one(home):
    real = home / "dotfiles.toml"
    real.write_text("# mine\n")
    file = home / "cxrbench.toml"
    file.symlink_to(real)
    remember(file, "x", DataEntry({"reports": (home / "r",)}))
    assert file.is_symlink()
    assert "reports" in real.read_text()


def test_a_cache_folder_that_is_not_absolute_is_not_taken(home, monkeypatch):
    from cxrbench.config import cache_dir

    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache_dir().is_absolute()


def test_a_settings_file_that_was_named_must_exist(home):
    with pytest.raises(CxrbenchError, match="no such settings file"):
        load_config(home / "none.toml")


LEAVES = [
    "http://judge.example/v1",
    "https://judge.example",
    "http://localhost.evil.example/v1",
    "http://localhost@evil.example/v1",
    "http://127.0.0.1@evil.example/v1",
    "http://user:pass@127.0.0.1/v1",
    "http://10.0.0.7:8000/v1",
    "http://192.168.1.1/v1",
    "http://172.16.0.1/v1",
    "http://169.254.169.254/latest",
    "http://0.0.0.0:8000/v1",
    "http://[::]:8000/v1",
    "http://[fe80::1]/v1",
    "http://2130706433/v1",
    "http://0x7f000001/v1",
    "http://127.1/v1",
    "http://[::ffff:10.0.0.1]/v1",
    "http://localhost%2eevil.example/",
    "ftp://127.0.0.1/x",
    "file:///etc/passwd",
    "http:///v1",
    "judge.example",
    "",
    "//127.0.0.1/v1",
    "http://evil.example#@127.0.0.1/",
    "http://evil.example/?@127.0.0.1",
]


@pytest.mark.parametrize("url", LEAVES)
def test_credentialed_data_leave_for_no_other_host(url):
    with pytest.raises(CxrbenchError, match="may not be sent"):
        guard_endpoint("credentialed", url, {})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "http://localhost:8000", "http://[::1]:8000/v1", "unix:/run/x"]
)
def test_loopback_and_sockets_are_allowed(url):
    assert guard_endpoint("credentialed", url, {}) is None


def test_a_trusted_host_is_allowed_by_its_exact_name_and_the_agreement_is_returned():
    trusted = {"judge.example": "DUA 12", "empty.example": " "}
    assert guard_endpoint("credentialed", "https://judge.example/v1", trusted) == "DUA 12"
    for url in ("https://sub.judge.example", "https://judge.example.evil.example", "https://empty.example"):
        with pytest.raises(CxrbenchError):
            guard_endpoint("credentialed", url, trusted)


@pytest.fixture
def open_umask():
    """Nothing may rest on a careful umask."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("open_umask")
def test_files_and_folders_are_the_owners_from_the_first_byte(tmp_path):
    folder = private_folder(tmp_path / "store")
    with open(folder / "x", "wb", opener=private_file) as file:
        assert mode(folder / "x") == 0o600
        file.write(b"text")
    assert mode(folder) == 0o700


def test_a_folder_that_was_there_is_not_changed(tmp_path):
    tmp_path.chmod(0o755)
    private_folder(tmp_path)
    assert mode(tmp_path) == 0o755


def test_closing_a_tree_takes_every_right_from_others_and_follows_no_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("x")
    elsewhere.chmod(0o644)
    run = tmp_path / "run"
    (run / "scores").mkdir(parents=True)
    (run / "scores/a.parquet").write_text("x")
    (run / "link").symlink_to(elsewhere)
    for path in (run, run / "scores", run / "scores/a.parquet"):
        path.chmod(0o755)
    close_tree(run)
    assert [mode(path) for path in (run, run / "scores", run / "scores/a.parquet", elsewhere)] == [
        0o700, 0o700, 0o700, 0o644,
    ]  # fmt: skip


@pytest.mark.usefixtures("open_umask")
def test_a_new_or_empty_folder_can_be_claimed_and_claimed_again(tmp_path):
    (tmp_path / "empty").mkdir(mode=0o755)
    for name in ("new", "empty"):
        folder = tmp_path / name
        assert not is_claimed(folder)
        for _ in range(2):
            claim_folder(folder)
            (folder / "index").touch()
            assert is_claimed(folder)
        assert (mode(folder), mode(folder / MARKER)) == (0o700, 0o600)


def test_a_folder_that_another_process_claims_meanwhile_is_claimed(tmp_path, monkeypatch):
    def late(folder):
        monkeypatch.undo()
        assert not is_claimed(folder)
        claim_folder(folder)
        (folder / "index").touch()
        return False  # what was true when it was looked at

    monkeypatch.setattr("cxrbench.privacy.is_claimed", late)
    assert claim_folder(tmp_path / "cache") == tmp_path / "cache"
    assert is_claimed(tmp_path / "cache")


def test_a_folder_with_files_is_neither_claimed_nor_changed(tmp_path):
    (tmp_path / "original.dcm").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(CxrbenchError, match="holds other files"):
        claim_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["original.dcm"]
    assert mode(tmp_path) == 0o755


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CxrbenchError, match="cannot be written") as caught:
        claim_folder(tmp_path / "file" / "cache")
    assert caught.value.code == Exit.INFRASTRUCTURE
