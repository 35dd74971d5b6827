from typing import NamedTuple
class Block(NamedTuple):
    size:int; start:int; stop:int
class Layout(NamedTuple):
    offsets:tuple; peak:int; lower_bound:int; method:str
def assign(blocks, *, align=64):
    off=[0]*len(blocks); placed=[]
    for i in sorted(range(len(blocks)), key=lambda i:-blocks[i].size):
        b=blocks[i]; s=-(-b.size//align)*align
        at=0
        for o,e in sorted((off[j], off[j]-(-blocks[j].size//align)*align) for j in placed if blocks[j].start<b.stop and b.start<blocks[j].stop):
            if at+s<=o: break
            at=max(at,e)
        off[i]=at; placed.append(i)
    peak=max([off[i]-(-b.size//align)*align for i,b in enumerate(blocks)], default=0)
    ev={}
    for b in blocks:
        s=-(-b.size//align)*align
        ev[b.start]=ev.get(b.start,0)+s; ev[b.stop]=ev.get(b.stop,0)-s
    lb=c=0
    for k in sorted(ev): c+=ev[k]; lb=max(lb,c)
    return Layout(tuple(off),peak,lb,"stub")
