"""Labels clouds through `cairn segment -` from another program: python3 segment_stream.py cairn --model airborne"""
import struct, subprocess, sys

def npy(points):
    """Bytes of an NPY file with rows of 32-bit floats: x, y, z and further columns."""
    head = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d)}" % (len(points), len(points[0]))
    rows = b"".join(struct.pack("<%df" % len(row), *row) for row in points)
    return b"\x93NUMPY\x01\x00\x76\x00" + head.ljust(117).encode() + b"\n" + rows

class Segmenter:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, cloud):
        """Class codes and confidences of a cloud, given as the bytes of a NPY, PLY, PCD or LAS file."""
        self.process.stdin.write(struct.pack("<I", len(cloud)) + cloud)
        self.process.stdin.flush()
        answer = self.process.stdout.read(struct.unpack("<I", self.process.stdout.read(4))[0])
        if answer[0]:
            raise ValueError(answer[1:].decode())
        n = len(answer) // 8
        return struct.unpack("<%di" % n, answer[1:1 + 4 * n]), struct.unpack("<%df" % n, answer[1 + 4 * n:])

if __name__ == "__main__":
    segment = Segmenter([sys.argv[1], "segment", "-"] + sys.argv[2:])
    for frame in range(3):
        points = [(x / 10, y / 10, 1.0 if x > 20 else 0.0) for x in range(40) for y in range(40 + frame)]
        codes, confidences = segment(npy(points))
        print("frame", frame, "points", len(codes), "classes", sorted(set(codes)), "least", min(confidences))
