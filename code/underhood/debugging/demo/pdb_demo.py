import utils


def myfunc(mylist: list[int]) -> None:
    total = utils.sum(mylist)
    print(total)


print("start")
myfunc([1, 2, 3, 4])
print("end")
