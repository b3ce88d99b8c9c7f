"""English words that tell nothing of what a text is about."""

_WORDS = """
about above after again against all also although always among and another any anything are aren around
ask back because been before being below best between both but came can cannot come could couldn did didn
does doesn doing don done down during each either else even ever every few first for from further gave get
gets give given goes going got had hadn has hasn have haven having her here hers herself him himself his
how however if inside instead into isn its itself just keep kept know last least less let like ll made
make makes many may maybe me might more most much must myself need needs neither never new next nobody
none nor not nothing now off often once one ones only onto other others our ours ourselves out over own
per put quite rather really said same say says see seem seems shall she should shouldn since so some
something soon still such take taken tell than that the their theirs them themselves then there these they
thing things this those though three through thus together too took toward two under until upon use used
uses using usually very via want wants was wasn way were weren what when where whether which while who
whole whom whose why will with within without won would wouldn yes yet you your yours yourself yourselves
"""
FUNCTION_WORDS = frozenset(_WORDS.split())
