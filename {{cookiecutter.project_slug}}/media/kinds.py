"""The kinds of media, and what each is called in sentences and in rows. A frame module: it imports nothing."""

KINDS = ("image", "audio")
NAMES = {"image": ("picture", "pictures"), "audio": ("sound", "sounds")}
# A special token each: one for a medium on disk, in a row as many as its encoder puts out. No label ever is one.
PLACEHOLDERS = {"image": "<|image|>", "audio": "<|audio|>"}
